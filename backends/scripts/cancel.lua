-- Takes an owner's requests for a resource out of the queue.
--
-- KEYS  see the prelude
-- ARGV  7 resource  8 owner  9 actor
--
-- Answers  cancelled, or missing when there are none
load()
local entry = ownerEntry(ARGV[8], ARGV[7]) .. '\n'
if S.waiters == 0 or S.queue().dequeueByEntries(entry, ARGV[9], 'request', 100) == 0 then return finish('missing') end
return finish('cancelled')
