-- Reads the next waiters of a repository, resource by resource in the order of
-- their queues. It stands alone and writes nothing.
--
-- KEYS  1 state  2 queue
-- ARGV  1 member after which to go on, empty for the beginning  2 how many
--       3 for how many microseconds detached waiters wait, 0 for ever, -1 when
--       the queue is off
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
local late = tonumber(ARGV[3])

-- waits reports whether a waiter without a process, of which it has the record,
-- still waits.
local function waits(record)
  local enqueued = string.match(record, '^[^\n]*\n[^\n]*\n[^\n]*\n[^\n]*\n(%d+)\n')
  return late == 0 or late > 0 and enqueued and now - enqueued < late
end

local members = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1] == '' and '[q' or '(' .. ARGV[1], '(r', 'LIMIT', 0, ARGV[2])
local answer = { state[1] or '', #members == tonumber(ARGV[2]) and members[#members] or '' }
for _, member in ipairs(members) do
  local process, request = string.match(member, '(%S*)\n([^\n]*)$')
  local name = request and string.sub(process, 34)
  local record = request and (name == '' or alive[name]) and redis.call('HGET', KEYS[1], 'r' .. request)
  if record and string.find(record, '\n', 1, true) and (name ~= '' or waits(record)) then
    answer[#answer + 1] = request
    answer[#answer + 1] = record
  end
end
return answer
