-- Grants a lock on a free resource.
--
-- KEYS  see the prelude; 8 stock's key of the resource, where there is one server
-- ARGV  6 resource  7 owner  8 priority  9 lease in microseconds, 0 for none
--       10 request  11 note  12 metadata  13 stock's form  14 "m" to keep a
--       copy under stock's key, else "-"
--
-- Answers  granted RECORD       a new lock, or the one that this request got before
--          own RECORD           the owner holds it already
--          held RECORD          somebody else holds it
--          ended                this request got a lock before, which has ended
--          reused               the request's ID was used for something else
--          closing              all locks of the owner are being released
--          unreadable KEY, stock VALUE  see settle
local resource, owner, request, mirror = ARGV[6], ARGV[7], ARGV[10], KEYS[8]
local token = redis.call('HGET', MEMORY, 'r' .. request)
if token then
  local before, how, asked = identify(token)
  if before then
    if before ~= resource then return finish('reused') end
    if not how then
      local status, r = settle(resource, mirror)
      if status == 'held' and r.token == token then
        if r.owner ~= owner then return finish('reused') end
        return finish('granted', format(r))
      end
      before, how, asked = identify(token)
    end
    if asked ~= owner then return finish('reused') end
    return finish('ended')
  end
end
local status, found = settle(resource, mirror)
if status == 'held' then return finish(found.owner == owner and 'own' or 'held', format(found)) end
if status ~= 'free' then return finish(status, found) end
local closing = tonumber(redis.call('HGET', META, 'closing:' .. owner) or '0')
if closing > 0 and NOW - closing < 60000000 then return finish('closing') end
local expires = '0'
if ARGV[9] ~= '0' then expires = int(NOW + tonumber(ARGV[9])) end
return finish('granted', grant(resource, {
  flag = ARGV[14], owner = owner, priority = ARGV[8], acquired = int(NOW), expires = expires,
  request = request, note = ARGV[11], metadata = ARGV[12], payload = ARGV[13],
}, 'acquired', { actor = owner, cause = 'request', request = request }, nil, mirror))
