-- Releases the locks of a pull request that the caller has listed.
--
-- KEYS  see the prelude, with the resource of each listed entry
-- ARGV  7 number of the pull request  8 actor  9 "1" when more locks remain
--       than are listed: until they are released it gets no new ones
--       from 10 on the entries of the owners' index
--
-- Answers  released LOCK RESOURCE ..., or again when the pull request holds
--          more than was listed; leaving in place of released when it still
--          waits for something; after it come the resources that can't be read,
--          each with "" in place of its lock's parts
load()
local more = ARGV[9] == '1'
local listed = {}
for i = 10, #ARGV do listed[ARGV[i]] = true end
if not more then
  for _, entry in ipairs(call('ZRANGEBYLEX', KEYS[3], '[p' .. ARGV[7] .. '/', '[p' .. ARGV[7] .. '/\255')) do
    if not listed[entry] then return finish('again') end
  end
end
-- It leaves the queues first, so that nothing is handed over to it.
local status = 'released'
if S.waiters > 0 and S.queue().dequeueByEntries('p' .. ARGV[7] .. '/', ARGV[8], 'pull', 100) == 100 then status = 'leaving' end
local answer, owner = {}, nil
for i = 10, #ARGV do
  local entry = ARGV[i]
  local at = find(entry, '\n', 1, true)
  local resource = at and sub(entry, at + 1) or ''
  local mirror, old = stockKeys(i - 9)
  local parts = call('HMGET', KEYS[1], 'l' .. resource, 'd' .. resource)
  local found, r, stock = settle(resource, parts[1], parts[2], mirror, old)
  local n = #answer
  if found == 'held' and ownerEntry(r.owner, resource) == entry then
    owner = r.owner
    finishLock(resource, r, 'released', ARGV[8], 'pull', '', mirror, stock)
    answer[n + 1], answer[n + 2], answer[n + 3] = r.header, r.details, resource
    serve(resource, mirror, old)
  elseif call('ZSCORE', KEYS[3], entry) then
    -- An entry that leads to nothing must not come up on every page.
    prepare(true, true, true)
    call('ZREM', KEYS[3], entry)
    if found == 'unreadable' then
      answer[n + 1], answer[n + 2], answer[n + 3] = '', '', resource
    end
  end
end
-- The mark comes last: what was removed has made room for it. It names the
-- owner, since a pull request of another host can have the number.
if more and owner then
  local ends = int(S.now + 60000000)
  call('HSET', KEYS[1], 'closing', ends, 'closing:' .. ARGV[7], ends .. ' ' .. owner)
elseif not more and S.closing then
  call('HDEL', KEYS[1], 'closing:' .. ARGV[7])
end
return finish(status, unpack(answer))
