-- Releases the locks of a pull request that the caller has listed.
--
-- KEYS  see the prelude; from 8 on stock's key of each listed resource, where
--       there is one server
-- ARGV  6 number of the pull request  7 actor  8 "1" when more locks remain
--       than are listed: until they are released it gets no new ones
--       9 number of stock's keys  from 10 on the entries of the owners' index
--
-- Answers  released RECORD RESOURCE ..., or again when the pull request holds
--          more than was listed; after it come the resources that can't be
--          read, each with "" in place of its record
local more = ARGV[8] == '1'
local listed = {}
for i = 10, #ARGV do listed[ARGV[i]] = true end
if not more then
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', OWNERS, '[p' .. ARGV[6] .. '/', '[p' .. ARGV[6] .. '/\255')) do
    if not listed[entry] then return finish('again') end
  end
end
local answer = {}
for i = 10, #ARGV do
  local entry = ARGV[i]
  local host, resource = string.match(entry, '^p[^/]*/([^\n]*)\n(.*)$')
  local mirror = tonumber(ARGV[9]) > 0 and KEYS[8 + i - 10] or nil
  local status, r = settle(resource, mirror)
  if status == 'held' and ownerEntry(r.owner, resource) == entry then
    local field = 'closing:' .. r.owner
    if more then
      prepare()
      redis.call('HSET', META, field, int(NOW))
    else
      redis.call('HDEL', META, field)
    end
    local stock = mirror and redis.call('GET', mirror) or false
    finishLock(resource, r, 'released', { actor = ARGV[7], cause = 'pull' }, mirror, stock)
    answer[#answer + 1] = format(r)
    answer[#answer + 1] = resource
  elseif redis.call('ZSCORE', OWNERS, entry) then
    -- An entry that leads to nothing must not come up on every page.
    redis.call('ZREM', OWNERS, entry)
    if status == 'unreadable' then
      answer[#answer + 1] = ''
      answer[#answer + 1] = resource
    end
  end
end
return finish('released', unpack(answer))
