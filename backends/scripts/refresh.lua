-- Extends the lease of a lock.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 token  9 lease in microseconds from now
--
-- Answers  refreshed, permanent for a lock without lease, unknown, gone HOW,
--          unreadable KEY
local resource = ARGV[7]
local mirror, old = stockKeys(1)
local r, refusal = heldByToken(ARGV[8], resource, mirror, old)
if not r then return finish(unpack(refusal)) end
if r.expires == '0' then return finish('permanent') end
local before = { owner = r.owner, token = r.token, expires = r.expires, note = r.note }
prepare(true)
r.expires = int(NOW + ARGV[9])
append('refreshed', resource, r.owner, 'request', '', '', before, r)
put(resource, r)
return finish('refreshed')
