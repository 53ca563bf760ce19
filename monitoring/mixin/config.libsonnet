// Every setting of the mixin: its type and its default. Types: string, number, ratio (0 to 1), duration ('1h30m').
// mixin.libsonnet refuses an unknown name and a wrong type, so an override cannot fail without a message.
{
  // Label matchers for every series of cc-textfile, such as 'env="production"'. Empty selects all.
  selector: { type: 'string', default: '' },
  // Where docs/runbook.md can be read. Put the address of your copy here, so that the link opens from a notification.
  runbookUrl: { type: 'string', default: 'docs/runbook.md' },
  criticalSeverity: { type: 'string', default: 'critical' },
  warningSeverity: { type: 'string', default: 'warning' },

  // A poll older than this is stale. Three times the poll interval is a good value.
  maxPollAge: { type: 'duration', default: '15m' },
  // How long a poller that has vanished is remembered. After this time it counts as removed.
  pollerMemory: { type: 'duration', default: '7d' },
  // How long a condition must hold: longer than a restart of Prometheus takes to scrape every target once.
  pollerFor: { type: 'duration', default: '5m' },

  // A method fails for a channel when more than half of the polls of this time brought no good response.
  methodWindow: { type: 'duration', default: '30m' },
  // The share of an account's channels that may fail without an alert.
  maxFailingChannels: { type: 'ratio', default: 0 },

  // How far the counters may be behind the present. It includes --settle and one poll interval.
  maxLedgerLag: { type: 'duration', default: '1h' },

  // The share of 5xx responses in one hour, and the responses per second below which that share means nothing.
  maxErrorRatio: { type: 'ratio', default: 0.05 },
  minErrorResponseRate: { type: 'number', default: 0.3 },
  // How far the hit ratio may be below that of a week before, and the requests per second that both need.
  maxHitRatioFall: { type: 'ratio', default: 0.1 },
  minHitRatioRequestRate: { type: 'number', default: 1 },
  // Traffic is gone when it is below this share of that of a week before, which was above so many bytes per second.
  minTrafficRatio: { type: 'ratio', default: 0.01 },
  minTrafficBytesRate: { type: 'number', default: 10000 },

  // How many channels a graph of the dashboard shows.
  dashboardTopChannels: { type: 'number', default: 10 },
}
