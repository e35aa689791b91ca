-- Gives a held lock to another owner, with a new token.
--
-- KEYS  see the prelude; 8 stock's key of the resource, where there is one server
-- ARGV  6 resource  7 token  8 new owner  9 stock's form for the new owner
--
-- Answers  transferred, unknown, gone HOW, unreadable KEY
local resource, mirror = ARGV[6], KEYS[8]
local r, refusal, stock = heldByToken(ARGV[7], resource, mirror)
if refusal then return finish(unpack(refusal)) end
if r.owner == ARGV[8] then return finish('transferred') end
local before = parse(format(r))
drop(resource, before, 'transferred', mirror, stock)
r.owner, r.request, r.payload = ARGV[8], '', ARGV[9]
if r.flag == 'c' then r.flag = 'm' end
grant(resource, r, 'transferred', { actor = before.owner, cause = 'request' }, before, mirror)
return finish('transferred')
