-- Reads records of a repository's log at one moment. It stands alone and writes
-- nothing.
--
-- KEYS  1 state  2 log
-- ARGV  1 sequence of the first record  2 how many at most
--
-- Answers  {trimmed or "", last sequence or "", SEQUENCE TEXT ...}
local meta = redis.call('HMGET', KEYS[1], 'trimmed', 'sequence')
local answer = { meta[1] or '', meta[2] or '' }
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])) do
  answer[#answer + 1] = string.match(entry[1], '^%d+')
  answer[#answer + 1] = entry[2][2] or ''
end
return answer
