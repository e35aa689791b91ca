-- Reads what the queue has of an owner: what it holds and waits for, and what it has
-- reserved. It stands alone and writes nothing.
--
-- KEYS  1 state  2 queue
-- ARGV  1 what the owner's entries begin with, see ownerEntry in the prelude  2 how
--       many of each at most
--
-- Answers  {name of the repository or "", how many wait in it or "", members ...};
--          those of what it has reserved come last
local state = redis.call('HMGET', KEYS[1], 'name', 'counters')
-- See count in the prelude.
local waiters, kept = string.match(state[2] or '', '^%S+ %S+ %S+ %S+ %S+ (%S+) %S+ (%S+) ')
local answer = { state[1] or '', waiters or '' }
for _, letter in ipairs((kept or '0') ~= '0' and { 'o', 's' } or { 'o' }) do
  local prefix = letter .. ARGV[1]
  for _, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', 0, ARGV[2])) do
    answer[#answer + 1] = member
  end
end
return answer
