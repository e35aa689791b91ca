-- Takes an owner's requests for a resource out of the queue, up to 100.
--
-- KEYS  see the prelude
-- ARGV  7 resource  8 owner  9 actor
--
-- Answers  cancelled, or missing when there are none; more when there may be more
load()
local count = S.waiters > 0 and S.queue().dequeueAll(ARGV[8], ARGV[7], ARGV[9], 'request', 100) or 0
return finish(count == 0 and 'missing' or count == 100 and 'more' or 'cancelled')
