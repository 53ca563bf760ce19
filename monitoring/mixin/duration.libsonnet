// Durations as Prometheus writes them: '90s', '15m', '1h30m', '7d'.
local units = { s: 1, m: 60, h: 3600, d: 86400, w: 604800 };

local parse(text) = std.foldl(
  function(state, char)
    if state.fault then state
    else if std.member('0123456789', char) then state { digits+: char }
    else if state.digits != '' && std.objectHas(units, char) then
      { fault: false, digits: '', sum: state.sum + std.parseInt(state.digits) * units[char] }
    else state { fault: true },
  std.stringChars(text),
  { fault: false, digits: '', sum: 0 }
);

{
  valid(value): std.isString(value) && (local end = parse(value); !end.fault && end.digits == '' && end.sum > 0),
  seconds(text): parse(text).sum,
}
