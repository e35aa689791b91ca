-- Makes a lease end later or earlier, from now.
--
-- KEYS  see the prelude; 8 stock's key of the resource, where there is one server
-- ARGV  6 resource  7 token  8 extension in microseconds
--
-- Answers  refreshed, permanent (it has no lease), unknown, gone HOW, unreadable KEY
local resource, mirror = ARGV[6], KEYS[8]
local r, refusal = heldByToken(ARGV[7], resource, mirror)
if refusal then return finish(unpack(refusal)) end
if r.expires == '0' then return finish('permanent') end
local before = parse(format(r))
prepare()
-- Removed first, so that it works while the server has no memory to give.
redis.call('ZREM', DEADLINES, resource)
r.expires = int(NOW + tonumber(ARGV[8]))
put(resource, r)
append('refreshed', resource, { actor = r.owner, cause = 'request' }, before, r)
return finish('refreshed')
