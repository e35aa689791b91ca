-- Reads the next locks of a repository, in the order of what leads from owners to
-- them: a place in it stays right whatever is added or removed, and on another server.
-- It stands alone and writes nothing.
--
-- KEYS  1 state  2 queue
-- ARGV  1 member of the queue after which to go on, empty for the beginning
--       2 how many to look at
--
-- Answers  {microseconds, name of the repository or "", "1" when more or fewer members
--          lead from owners than there are locks and waiters, last member or "" at
--          the end, RESOURCE HEADER DETAILS ...}; a lock with a header that can't be
--          read comes with each member that may lead to it
local clock, find, sub = redis.call('TIME'), string.find, string.sub
local state = redis.call('HMGET', KEYS[1], 'name', 'counters')
-- See count in the prelude.
local locks, waiters = string.match(state[2] or '', '^%S+ %S+ (%S+) %S+ %S+ (%S+) ')
local members = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1] == '' and '[o' or '(' .. ARGV[1], '(p', 'LIMIT', 0, ARGV[2])
local count = redis.call('ZLEXCOUNT', KEYS[2], '[o', '(p')
local answer = {
  string.format('%s%06d', clock[1], clock[2]), state[1] or '',
  state[1] and count ~= (tonumber(locks or '') or 0) + (tonumber(waiters or '') or 0) and '1' or '',
  #members == tonumber(ARGV[2]) and members[#members] or '',
}
local headers, resources, requests = { 'HMGET', KEYS[1] }, {}, {}
for _, member in ipairs(members) do
  local at = find(member, '\n', 1, true)
  local ends = at and find(member, '\n', at + 1, true)
  if ends then
    local n = #resources + 1
    resources[n], requests[n] = sub(member, at + 1, ends - 1), sub(member, ends + 1)
    headers[2 + n] = 'l' .. resources[n]
  end
end
if #resources == 0 then return answer end
-- It leads to a waiter where the lock there was got by another request.
local details, held, pattern = { 'HMGET', KEYS[1] }, {}, '^' .. string.rep('[^\n]*\n', 6) .. '([^\n]*)\n'
headers = redis.call(unpack(headers))
for i, header in ipairs(headers) do
  if header and (string.match(header, pattern) or requests[i]) == requests[i] then
    held[#held + 1] = i
    details[2 + #held] = 'd' .. resources[i]
  end
end
if #held == 0 then return answer end
details = redis.call(unpack(details))
for k, i in ipairs(held) do
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3] = resources[i], headers[i], details[k] or ''
end
return answer
