-- Releases the locks of a pull request that the caller has listed.
--
-- KEYS  see the prelude, with the resource of each listed entry
-- ARGV  7 number of the pull request  8 actor  9 "1" when more locks remain
--       than are listed: until they are released it gets no new ones
--       from 10 on the entries of the owners' index
--
-- Answers  released RECORD RESOURCE ..., or again when the pull request holds
--          more than was listed; after it come the resources that can't be
--          read, each with "" in place of its record
local more = ARGV[9] == '1'
local listed = {}
for i = 10, #ARGV do listed[ARGV[i]] = true end
if not more then
  for _, entry in ipairs(call('ZRANGEBYLEX', OWNERS, '[p' .. ARGV[7] .. '/', '[p' .. ARGV[7] .. '/\255')) do
    if not listed[entry] then return finish('again') end
  end
end
local answer, owners = {}, {}
for i = 10, #ARGV do
  local entry = ARGV[i]
  local resource = string.match(entry, '^[^\n]*\n(.*)$') or ''
  local mirror, old = stockKeys(i - 9)
  local status, r, stock = settle(resource, mirror, old)
  if status == 'held' and ownerEntry(r.owner, resource) == entry then
    owners[r.owner] = true
    finishLock(resource, r, 'released', ARGV[8], 'pull', '', mirror, stock)
    answer[#answer + 1] = format(r)
    answer[#answer + 1] = resource
  elseif call('ZSCORE', OWNERS, entry) then
    -- An entry that leads to nothing must not come up on every page.
    prepare(true)
    call('ZREM', OWNERS, entry)
    if status == 'unreadable' then
      answer[#answer + 1] = ''
      answer[#answer + 1] = resource
    end
  end
end
-- Markers come last: what was removed has made room for them.
if more then
  local ends = int(NOW + 60000000)
  for owner in pairs(owners) do
    call('HSET', META, 'closing', ends, 'closing:' .. owner, ends)
  end
elseif meta[6] then
  for _, field in ipairs(call('HKEYS', META)) do
    if string.match(field, '^closing:pr:[^/]*/[^/]*/(-?%d+)$') == ARGV[7] then call('HDEL', META, field) end
  end
end
return finish('released', unpack(answer))
