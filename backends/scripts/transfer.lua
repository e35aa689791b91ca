-- Gives a held lock to another owner, with a new token.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 token  9 new owner  10 metadata  11 stock's form for the
--       new owner
--
-- Answers  transferred TOKEN, own when the owner has it already, closing, unknown,
--          gone HOW, unreadable KEY
local resource, token, owner = ARGV[7], ARGV[8], ARGV[9]
local header, details, entry = load('l' .. resource, 'd' .. resource, 'i' .. token)
local mirror, old = stockKeys(1)
local r, refusal = heldByToken(token, resource, entry, header, details, mirror, old)
if not r then return finish(unpack(refusal)) end
if r.owner == owner then return finish('own') end
if isClosing(owner) then return finish('closing') end
local before = { owner = r.owner, token = r.token, expires = r.expires, note = r.note, request = r.request }
prepare(true, true)
r.owner, r.request, r.token = owner, '', nextToken()
-- Who is given it needs no claim.
if r.pending then r.pending, r.expires = false, '0' end
r.details = ARGV[10] ~= '' and ARGV[11] .. '\n' .. ARGV[10] or ARGV[11]
append('transferred', resource, before.owner, 'request', '', '', before, r)
store('l' .. resource, headerOf(r), 'd' .. resource, r.details, 'i' .. r.token, resource,
  endingOf(before.token, 'transferred\n' .. resource .. '\n' .. before.owner .. '\n' .. before.request))
if r.expires ~= before.expires then call('ZREM', KEYS[2], resource) end
unlead(resource, before)
call('ZADD', KEYS[4], '0', memberOf(owner, resource, ''))
-- A conflict with stock stays one: its key is not ours.
if r.flag == 'm' then call('SET', mirror, formOf(r)) end
if S.waiters > 0 then S.turns().dequeueOwn(r, resource) end
return finish('transferred', r.token)
