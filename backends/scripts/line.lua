-- Reads the next waiters of a repository, resource by resource in the order of
-- their queues. It stands alone and writes nothing.
--
-- KEYS  1 state  2 queue
-- ARGV  1 member after which to go on, empty for the beginning  2 how many
--
-- Answers  {name of the repository or "", last member or "" at the end, and for
--          each waiter that is alive REQUEST RECORD ...}
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local state = redis.call('HMGET', KEYS[1], 'name', 'alive')
local alive = {}
for process, ends in string.gmatch(state[2] or '', '(%S+) (%d+)') do
  alive[process] = tonumber(ends) > now
end
local members = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1] == '' and '[q' or '(' .. ARGV[1], '(r', 'LIMIT', 0, ARGV[2])
local answer = { state[1] or '', #members == tonumber(ARGV[2]) and members[#members] or '' }
for _, member in ipairs(members) do
  local process, request = string.match(member, '(%S*)\n([^\n]*)$')
  local record = request and alive[string.sub(process, 34)] and redis.call('HGET', KEYS[1], 'q' .. request)
  if record then
    answer[#answer + 1] = request
    answer[#answer + 1] = record
  end
end
return answer
