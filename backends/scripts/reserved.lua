-- Reads for whom one resource is kept while nobody holds it. It stands alone and
-- writes nothing.
--
-- KEYS  1 state  2 deadlines  3 queue
-- ARGV  1 resource  2 SetReserveAfter in microseconds
--
-- Answers  {microseconds, reservation as runs.lua has it or "", its deadline or "",
--          request and record, as queue.lua has it, of the waiter whose set it is kept
--          for, see whole.lua, or "" and ""}
local clock, resource = redis.call('TIME'), ARGV[1]
local now = clock[1] * 1000000 + clock[2]
local state = redis.call('HMGET', KEYS[1], 'k' .. resource, 'counters', 'alive')
local ends = redis.pcall('ZSCORE', KEYS[2], resource)
local answer = { string.format('%d', now), state[1] or '', type(ends) == 'string' and ends or '', '', '' }
-- How many waiters are of sets, see count in the prelude.
local sets = string.match(state[2] or '', '^' .. string.rep('%S+ ', 9) .. '(%S+) ')
if not sets or sets == '0' then return answer end

local alive = {}
for process, lives in string.gmatch(state[3] or '', '(%S+) (%d+)') do
  alive[process] = tonumber(lives) > now
end
-- The oldest one that is alive, as keeperOf of whole.lua finds it.
local low, high = '[w' .. resource .. '\n', '(w' .. resource .. '\n:'
repeat
  local page = redis.call('ZRANGEBYLEX', KEYS[3], low, high, 'LIMIT', '0', '10')
  for _, member in ipairs(page) do
    local enqueued, request = string.match(member, '^(%d+) [^\n]*\n(.*)$', #resource + 3)
    if enqueued and now - enqueued < tonumber(ARGV[2]) then return answer end
    local record = request and redis.call('HGET', KEYS[1], 'r' .. request)
    local mark, process = string.match(record or '', '^' .. string.rep('[^\n]*\n', 6) .. '([^\n]*)\n([^\n]*)\n')
    if mark and #mark > 1 and alive[process] then
      answer[4], answer[5] = request, record
      return answer
    end
  end
  low = '(' .. (page[#page] or '')
until #page == 0
return answer
