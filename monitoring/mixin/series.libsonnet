// The name of a series with its matchers and those of the setting `selector`.
function(config) function(name, matchers='')
  local all = std.filter(function(text) text != '', [matchers, config.selector]);
  name + if all == [] then '' else '{%s}' % std.join(', ', all)
