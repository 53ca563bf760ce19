// Alerts and recording rules for cc-textfile. To change a setting of config.libsonnet:
//
//   local mixin = (import 'mixin.libsonnet') + { _config+:: { maxErrorRatio: 0.02 } };
//   std.manifestYamlDoc(mixin.prometheusAlerts)
//
// `make monitoring CONFIG=my.libsonnet OUTPUT=FOLDER` does the same, and renders the dashboard too.
local settings = import 'config.libsonnet';
local duration = import 'duration.libsonnet';

local types = {
  string: { valid(value): std.isString(value), is: 'a string' },
  number: { valid(value): std.isNumber(value) && value >= 0, is: 'a number, not negative' },
  ratio: { valid(value): std.isNumber(value) && value >= 0 && value <= 1, is: 'a number from 0 to 1' },
  duration: { valid(value): duration.valid(value), is: "a duration such as '15m' or '1h30m'" },
};

local faults(config) = [
  if !std.objectHasAll(settings, name) then
    'unknown setting %s (known: %s)' % [name, std.join(', ', std.objectFields(settings))]
  else
    '%s must be %s, not %s' % [name, types[settings[name].type].is, std.manifestJsonMinified(config[name])]
  for name in std.objectFieldsAll(config)
  if !std.objectHasAll(settings, name) || !types[settings[name].type].valid(config[name])
];

{
  _config:: { [name]: settings[name].default for name in std.objectFields(settings) },
  local checked =
    local found = faults($._config);
    if found == [] then $._config else error '_config: ' + std.join('; ', found),

  prometheusAlerts: (import 'alerts.libsonnet')(checked),
  prometheusRules: (import 'rules.libsonnet')(checked),
  // For the dashboard, which is made by ../dashboard.py.
  dashboardConfig: checked {
    maxPollAgeSeconds: duration.seconds(checked.maxPollAge),
    maxLedgerLagSeconds: duration.seconds(checked.maxLedgerLag),
  },
}
