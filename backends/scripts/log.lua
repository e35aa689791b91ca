-- Reads records of a repository's log at one moment. It stands alone and writes
-- nothing.
--
-- An entry of the log with ID SEQUENCE-0 and n fields d is the records from
-- SEQUENCE-n+1 to SEQUENCE, of one step. Where somebody has added more records than
-- fit behind the entry before, the first ones don't count. An entry with other fields
-- can't be read: it is the one record SEQUENCE, without a text.
--
-- KEYS  1 state  2 log
-- ARGV  1 sequence of the first record  2 how many entries at most
--
-- Answers  {trimmed or "", last sequence or "", SEQUENCE TEXT ...}; "" for those that are
--          no numbers, too
-- See count in the prelude.
local last, trimmed = string.match(redis.call('HGET', KEYS[1], 'counters') or '', '^%S+ (%S+) .* (%S+)$')
local answer = { string.match(trimmed or '', '^%d+$') or '', string.match(last or '', '^%d+$') or '' }
local from = tonumber(ARGV[1])
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])) do
  local last, fields = tonumber(string.match(entry[1], '^%d+')), entry[2]
  for i = 1, #fields, 2 do
    if fields[i] ~= 'd' then fields = { '', '' } end
  end
  for sequence = math.max(from, last + 1 - #fields / 2), last do
    answer[#answer + 1] = string.format('%d', sequence)
    answer[#answer + 1] = fields[#fields - 2 * (last - sequence)]
  end
  from = last + 1
end
return answer
