-- Grants a lock on a free resource.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 owner  9 priority  10 lease in microseconds, 0 for none
--       11 request  12 note  13 metadata  14 stock's form  15 "m" to keep a
--       copy under stock's key, else "-"
--
-- Answers  granted TOKEN ACQUIRED EXPIRES  a new lock
--          again LOCK           the one that this request got before
--          own LOCK             the owner holds it already
--          held LOCK            somebody else holds it
--          ended                this request got a lock before, which has ended
--          reused               the request's ID was used for something else
--          closing              all locks of the owner are being released
--          unreadable KEY, stock VALUE, old VALUE  see settle
local resource, owner, request = ARGV[7], ARGV[8], ARGV[11]
local header, details, token = load('l' .. resource, 'd' .. resource, 'r' .. request)
local mirror, old = stockKeys(1)
if token then
  local before, how, asked = identify(call('HGET', KEYS[1], 'i' .. token))
  if before then
    if before ~= resource then return finish('reused') end
    if not how then
      local status, r = settle(resource, header, details, mirror, old)
      if status == 'held' and r.token == token then
        if r.owner ~= owner then return finish('reused') end
        return finish('again', r.header, r.details)
      end
      before, how, asked = identify(call('HGET', KEYS[1], 'i' .. token))
      header, details = false, false
    end
    if asked ~= owner then return finish('reused') end
    return finish('ended')
  end
end
local status, r = settle(resource, header, details, mirror, old)
if status == 'held' then return finish(r.owner == owner and 'own' or 'held', r.header, r.details) end
if status ~= 'free' then return finish(status, r) end
if isClosing(owner) then return finish('closing') end
local new = {
  flag = ARGV[15], owner = owner, priority = ARGV[9], acquired = S.text,
  expires = ARGV[10] ~= '0' and int(S.now + ARGV[10]) or '0', request = request, note = ARGV[12],
  details = ARGV[13] ~= '' and ARGV[14] .. '\n' .. ARGV[13] or ARGV[14],
}
grant(resource, new, 'acquired', owner, 'request', mirror)
return finish('granted', new.token, S.text, new.expires)
