-- Extends the lease of a lock.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 token  9 lease in microseconds from now
--
-- Answers  refreshed, permanent for a lock without lease, pending for one that
--          is not claimed, unknown, gone HOW, unreadable KEY
local resource, token = ARGV[7], ARGV[8]
local header, details, entry = load('l' .. resource, 'd' .. resource, 'i' .. token)
local mirror, old = stockKeys(1)
local r, refusal = heldByToken(token, resource, entry, header, details, mirror, old)
if not r then return finish(unpack(refusal)) end
if r.pending then return finish('pending') end
if r.expires == '0' then return finish('permanent') end
local before = { owner = r.owner, token = r.token, expires = r.expires, note = r.note }
prepare(true, true)
r.expires = int(S.now + ARGV[9])
append('refreshed', resource, r.owner, 'request', '', '', before, r)
store('l' .. resource, headerOf(r))
call('ZADD', KEYS[2], r.expires, resource)
return finish('refreshed')
