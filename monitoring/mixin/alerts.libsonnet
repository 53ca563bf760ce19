// Twelve alerts. One condition occurs in several of them: `fresh`, which leaves out sources whose last poll is stale,
// because node_exporter and the Pushgateway serve the last values of a dead poller for ever.
function(config)
  local series = (import 'series.libsonnet')(config);
  local seconds = (import 'duration.libsonnet').seconds;
  local c = config {
    age: seconds(config.maxPollAge),
    lag: seconds(config.maxLedgerLag),
    polled: series('cc_textfile_poll_timestamp_seconds'),
    success: series('cc_textfile_poll_success'),
    refused: series('cc_textfile_poll_failures', 'reason="refused"'),
    up: series('cc_textfile_method_up'),
    ledgerUp: series('cc_textfile_ledger_up'),
    position: series('cc_textfile_ledger_settled_end_timestamp_seconds'),
    lost: series('cc_textfile_ledger_lost_seconds_total'),
    traffic: series('chinacache_traffic_bytes_total'),
    settled: series('chinacache_settled_seconds_total'),
    hitRatio: 'account_channel:chinacache_requests_hit:ratio1h',
    requestRate: 'account_channel:chinacache_requests:rate1h',
    fresh: 'and on (job, instance, account) time() - %(polled)s < %(age)d' % self,
  };
  local alert(name, severity, wait, expr, summary, description) = {
    alert: name,
    expr: expr % c,
    'for': wait,
    labels: { severity: severity },
    annotations: {
      summary: summary % c,
      description: description % c,
      runbook_url: '%s#%s' % [c.runbookUrl, std.asciiLower(name)],
    },
  };
  local critical = c.criticalSeverity;
  local warning = c.warningSeverity;
  {
    groups: [
      {
        name: 'chinacache-poller',
        rules: [
          // A series that is gone counts with its last value. `absent_over_time` is for no poller at all.
          alert(
            'ChinaCachePollerStale',
            critical,
            c.pollerFor,
            |||
              abs(time() - (max by (account) (last_over_time(%(polled)s[%(pollerMemory)s]))
                or 0 * absent_over_time(%(polled)s[%(pollerMemory)s]))) > %(age)d
            |||,
            '{{ with $labels.account }}ChinaCache account {{ . }} has not been polled for {{ humanizeDuration $value }}{{ else }}No ChinaCache poller was seen in the last %(pollerMemory)s{{ end }}',
            'No host writes or pushes new numbers. Or the clock of the host is wrong by that time.'
          ),
          alert(
            'ChinaCacheAccountRefused',
            critical,
            '10m',
            |||
              max by (account) (%(refused)s > 0
                and on (job, instance, account, shard) %(success)s == 0
                %(fresh)s)
            |||,
            'The ChinaCache portal refuses account {{ $labels.account }}',
            'Requests are refused, and none is answered. The user or the password is wrong, or the account is locked.'
          ),
          alert(
            'ChinaCacheMethodFailing',
            warning,
            c.pollerFor,
            |||
              avg by (account, method) (max by (account, channel, method) (
                avg_over_time(%(up)s[%(methodWindow)s])
                %(fresh)s) < bool 0.5) > %(maxFailingChannels)g
            |||,
            '{{ $labels.method }} fails for {{ humanizePercentage $value }} of the channels of ChinaCache account {{ $labels.account }}',
            'For these channels, most polls of the last %(methodWindow)s brought no numbers of this method.'
          ),
          // Two files with the same series: node_exporter serves those of one, and drops those of the other.
          alert(
            'ChinaCacheGatherErrors',
            warning,
            c.pollerFor,
            |||
              increase(promhttp_metric_handler_errors_total{cause="gathering"}[15m]) > 0
                and on (job, instance) last_over_time(%(polled)s[%(pollerMemory)s])
            |||,
            'node_exporter on {{ $labels.instance }} drops series at each scrape',
            'Two text files on this host have the same series, or HELP texts that differ. The numbers of one are lost.'
          ),
          alert(
            'ChinaCacheTextfileUnreadable',
            critical,
            c.pollerFor,
            |||
              (last_over_time(%(polled)s[%(pollerMemory)s]) unless %(polled)s)
                and on (job, instance) node_textfile_scrape_error > 0
            |||,
            'node_exporter on {{ $labels.instance }} cannot read the file of ChinaCache account {{ $labels.account }}',
            'It reports a text file that it cannot open or parse, and the series of this account are gone.'
          ),
        ],
      },
      {
        name: 'chinacache-channels',
        // It reads the series of every channel over a long time: 0.3 s of Prometheus for 100 channels.
        interval: '5m',
        rules: [
          // For several hosts or shards of one account, of which one is dead. A channel counts with the last poll
          // of any source that has it, so a replaced host, a copy by push and a removed channel raise nothing.
          alert(
            'ChinaCacheChannelsStale',
            critical,
            c.pollerFor,
            |||
              count by (account) (abs(time() - max by (account, channel) (
                0 * last_over_time(%(up)s[%(pollerMemory)s]) + on (job, instance, account, shard) group_left ()
                last_over_time(%(polled)s[%(pollerMemory)s]))) > %(age)d)
            |||,
            '{{ $value }} channels of ChinaCache account {{ $labels.account }} have not been polled for more than %(maxPollAge)s',
            'The host or the shard that polls them is dead, and no other has taken them over.'
          ),
        ],
      },
      {
        name: 'chinacache-ledger',
        rules: [
          alert(
            'ChinaCacheLedgerDown',
            critical,
            '10m',
            'min by (account) (%(ledgerUp)s %(fresh)s) == 0',
            'The ledger of ChinaCache account {{ $labels.account }} cannot be used',
            'Polls go on, but without counters. Nothing is lost yet: the ledger catches up when it can be used again.'
          ),
          alert(
            'ChinaCacheLedgerBehind',
            warning,
            '15m',
            |||
              max by (account) (time() - max by (account, channel) (
                %(position)s
                %(fresh)s)) > %(lag)d
            |||,
            'The counters of ChinaCache account {{ $labels.account }} are {{ humanizeDuration $value }} behind',
            'This is the channel that is furthest behind. Nothing is lost yet: the ledger asks for this time again.'
          ),
          // The last line is for a poller that was gone for days: the first value after that already has the loss.
          alert(
            'ChinaCacheLedgerTimeLost',
            warning,
            '0s',
            |||
              max by (account) (increase(%(lost)s[1d]) > 0
                or %(lost)s > 0
                unless on (account, channel) last_over_time(%(lost)s[1d] offset 1d))
            |||,
            'The counters of ChinaCache account {{ $labels.account }} have left out about {{ humanizeDuration $value }}',
            'The poller was away for longer than --catch-up. The numbers of that time are skipped, except those of the day in which the counting goes on.'
          ),
        ],
      },
      {
        name: 'chinacache-cdn',
        rules: [
          // After a gap the counts of the whole gap arrive at once. They do not count as those of the last hour.
          alert(
            'ChinaCacheServerErrors',
            critical,
            '10m',
            |||
              account_channel:chinacache_responses_5xx:ratio1h > %(maxErrorRatio)g
                and account_channel:chinacache_responses:rate1h > %(minErrorResponseRate)g
                unless account_channel:chinacache_responses:rate1h offset 1h == 0
            |||,
            '{{ humanizePercentage $value }} of the responses of ChinaCache channel {{ $labels.channel }} are 5xx',
            'In the last hour, as the portal counts them. Account {{ $labels.account }}.'
          ),
          // A week before, and in the first week a day before. Against the day before alone, the alert would end by
          // itself after a day.
          alert(
            'ChinaCacheHitRatioFalling',
            warning,
            '15m',
            |||
              %(hitRatio)s - (%(hitRatio)s offset 1w
                or %(hitRatio)s offset 1d) < -%(maxHitRatioFall)g and %(requestRate)s > %(minHitRatioRequestRate)g
                and (%(requestRate)s offset 1w or %(requestRate)s offset 1d) > %(minHitRatioRequestRate)g
            |||,
            'The hit ratio of ChinaCache channel {{ $labels.channel }} has changed by {{ humanizePercentage $value }}',
            'Against the same hour of last week. More requests reach your origin. Account {{ $labels.account }}.'
          ),
          alert(
            'ChinaCacheTrafficGone',
            critical,
            '15m',
            |||
              max by (account, channel) (rate(%(traffic)s[30m]) / (rate(%(settled)s[30m]) > 0))
                < %(minTrafficRatio)g * ((account_channel:chinacache_traffic_bytes:rate1h offset 1w
                or account_channel:chinacache_traffic_bytes:rate1h offset 1d) > %(minTrafficBytesRate)g)
            |||,
            'ChinaCache channel {{ $labels.channel }} has no traffic',
            'It has {{ humanize $value }}B/s. At this hour of last week it was busy. Account {{ $labels.account }}.'
          ),
        ],
      },
    ],
  }
