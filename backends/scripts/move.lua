-- Puts an owner's requests for a resource before all others.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 owner  9 actor  10 reason
--
-- Answers  moved, or missing when there are none
local resource = ARGV[7]
local header, details = load('l' .. resource, 'd' .. resource)
local mirror, old = stockKeys(1)
settle(resource, header, details, mirror, old)
if S.waiters == 0 or not S.queue().move(ARGV[8], resource, ARGV[9], ARGV[10]) then return finish('missing') end
if S.sets > 0 then -- what is free and was kept for a set can be for it now
  local parts = call('HMGET', KEYS[1], 'l' .. resource, 'd' .. resource)
  settle(resource, parts[1], parts[2], mirror, old)
end
return finish('moved')
