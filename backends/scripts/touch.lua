-- Writes something, so that the connection's next WAIT is about all that came
-- before. It stands alone.
--
-- KEYS  1 state, or a key that a process has of its own
--
-- Answers  touched
-- Works while the server has no memory left, see the prelude.
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], 'confirmed', redis.call('TIME')[1])
-- A repository in which nothing was ever locked has no state, and gets none here.
if redis.call('HEXISTS', KEYS[1], 'name') == 0 then redis.call('HDEL', KEYS[1], 'confirmed') end
return { 'touched' }
