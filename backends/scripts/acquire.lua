-- Grants a lock on a free resource.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 owner  9 priority  10 lease in microseconds, 0 for none
--       11 request  12 note  13 metadata  14 stock's form  15 "m" to keep a
--       copy under stock's key, else "-"
--
-- Answers  granted TOKEN ACQUIRED EXPIRES  a new lock
--          again RECORD         the one that this request got before
--          own RECORD           the owner holds it already
--          held RECORD          somebody else holds it
--          ended                this request got a lock before, which has ended
--          reused               the request's ID was used for something else
--          closing              all locks of the owner are being released
--          unreadable KEY, stock VALUE, old VALUE  see settle
local resource, owner, request = ARGV[7], ARGV[8], ARGV[11]
local mirror, old = stockKeys(1)
local token = call('HGET', MEMORY, 'r' .. request)
if token then
  local before, how, asked = identify(token)
  if before then
    if before ~= resource then return finish('reused') end
    if not how then
      local status, r = settle(resource, mirror, old)
      if status == 'held' and r.token == token then
        if r.owner ~= owner then return finish('reused') end
        return finish('again', format(r))
      end
      before, how, asked = identify(token)
    end
    if asked ~= owner then return finish('reused') end
    return finish('ended')
  end
end
local status, found = settle(resource, mirror, old)
if status == 'held' then return finish(found.owner == owner and 'own' or 'held', format(found)) end
if status ~= 'free' then return finish(status, found) end
if meta[6] and meta[6] + 0 > NOW then
  local closing = call('HGET', META, 'closing:' .. owner)
  if closing and closing + 0 > NOW then return finish('closing') end
end
local expires = ARGV[10] ~= '0' and int(NOW + ARGV[10]) or '0'
local r = {
  flag = ARGV[15], owner = owner, priority = ARGV[9], acquired = NOW_TEXT, expires = expires,
  request = request, note = ARGV[12], metadata = ARGV[13], payload = ARGV[14],
}
grant(resource, r, 'acquired', owner, 'request', nil, mirror)
return finish('granted', r.token, NOW_TEXT, expires)
