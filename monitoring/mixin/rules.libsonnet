// Five series by account and channel. Each is computed for every source (job, instance) and then taken from the largest:
// the same counter can arrive by file and by push, and a source that is no longer updated has rate 0.
function(config)
  local series = (import 'series.libsonnet')(config);
  local c = {
    traffic: series('chinacache_traffic_bytes_total'),
    settled: series('chinacache_settled_seconds_total'),
    requests: series('chinacache_requests_total'),
    hits: series('chinacache_requests_total', 'result="hit"'),
    responses: series('chinacache_responses_total'),
    errors: series('chinacache_responses_total', 'code=~"5.."'),
  };
  {
    groups: [{
      name: 'chinacache',
      rules: [
        {
          // Bytes per second of CDN time, exact also while the ledger catches up. Absent when nothing was counted.
          record: 'account_channel:chinacache_traffic_bytes:rate1h',
          expr: 'max by (account, channel) (rate(%(traffic)s[1h]) / (rate(%(settled)s[1h]) > 0))' % c,
        },
        {
          record: 'account_channel:chinacache_requests:rate1h',
          expr: |||
            max by (account, channel) (
              sum without (result) (rate(%(requests)s[1h])) / (rate(%(settled)s[1h]) > 0))
          ||| % c,
        },
        {
          record: 'account_channel:chinacache_requests_hit:ratio1h',
          expr: |||
            max by (account, channel) (sum without (result) (rate(%(hits)s[1h]))
              / (sum without (result) (rate(%(requests)s[1h])) > 0))
          ||| % c,
        },
        {
          // By the host's time: status codes are counts of the day so far, without a window.
          record: 'account_channel:chinacache_responses:rate1h',
          expr: 'sum by (account, channel) (max by (account, channel, code) (rate(%(responses)s[1h])))' % c,
        },
        {
          record: 'account_channel:chinacache_responses_5xx:ratio1h',
          expr: |||
            (sum by (account, channel) (max by (account, channel, code) (rate(%(errors)s[1h])))
              or 0 * account_channel:chinacache_responses:rate1h)
              / (account_channel:chinacache_responses:rate1h > 0)
          ||| % c,
        },
      ],
    }],
  }
