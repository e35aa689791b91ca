-- Gives a held lock to another owner, with a new token.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 token  9 new owner  10 stock's form for the new owner
--
-- Answers  transferred TOKEN, own when the owner has it already, unknown, gone
--          HOW, unreadable KEY
local resource = ARGV[7]
local mirror, old = stockKeys(1)
local r, stock = heldByToken(ARGV[8], resource, mirror, old)
if not r then return finish(unpack(stock)) end
if r.owner == ARGV[9] then return finish('own') end
local before = {
  owner = r.owner, token = r.token, expires = r.expires, note = r.note, request = r.request, payload = r.payload,
}
r.owner, r.request, r.payload = ARGV[9], '', ARGV[10]
-- The log record comes first; a conflict with stock stays one.
prepare()
TOKEN = math.max(TOKEN + 1, NOW)
r.token = int(TOKEN)
append('transferred', resource, before.owner, 'request', '', '', before, r)
drop(resource, before, 'transferred')
put(resource, r)
call('HSET', MEMORY, 'i' .. r.token, resource)
if r.flag == 'm' then call('SET', mirror, r.payload) end
return finish('transferred', r.token)
