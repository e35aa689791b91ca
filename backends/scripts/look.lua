-- Looks after a set that a call of a process waits for.
--
-- KEYS  see the prelude, with the resources of the set
-- ARGV  7 process  8 microseconds for which it is alive  from 9 on two for each of the
--       set's requests: resource and request
--
-- Answers  waits NOW EXPIRES  it is in the queues, for this process; NOW is the time in
--                             microseconds, EXPIRES when the first lease on one of its
--                             resources ends, 0 for none
--          due RESOURCE ...   these are to be settled before
--          has LOCK ...       it has got the locks
--          ended LOCK ...     it had got locks, and one of them has ended, which
--                             has two empty parts
--          gone               none of these
load()
local process, resources = ARGV[7], {}
local headers, copies, owners = { 'HMGET', KEYS[1] }, { 'MGET' }, {}
for i = 9, #ARGV, 2 do
  local n = #resources + 1
  resources[n] = ARGV[i]
  headers[2 + n] = 'l' .. ARGV[i]
  local mirror, old = stockKeys(n)
  if mirror then
    copies[#copies + 1], owners[#owners + 1] = mirror, n
    if old then copies[#copies + 1], owners[#owners + 1] = old, -n end
  end
end
local function waiting()
  local w = S.waiters > 0 and S.queue().load(ARGV[10])
  return w and w.set == ARGV[10] and w.process == process
end
if waiting() then
  S.queue().pulse(process, ARGV[8] + 0)
  headers = call(unpack(headers))
  local isDue, due, next, free = {}, {}, nil, nil
  for k, value in ipairs(#copies > 1 and call(unpack(copies)) or {}) do
    local n = math.abs(owners[k])
    local flag = headers[n] and string.match(headers[n], '^%d+\n%d+\n%d+\n(.)')
    if not flag or owners[k] > 0 then
      isDue[n] = isDue[n] or value and (not flag or flag == '-' or flag == 'p') or not value and (flag == 'm' or flag == 'M')
    end
  end
  for n, header in ipairs(headers) do
    local expires = header and tonumber(string.match(header, '^%d+\n%d+\n(%d+)\n') or 0)
    if not header then
      free = free or n
    elseif expires > 0 and expires <= S.now then
      isDue[n] = true
    elseif expires > 0 then
      next = math.min(next or expires, expires)
    end
    if isDue[n] then due[#due + 1] = resources[n] end
  end
  if #due > 0 then return finish('due', unpack(due)) end
  -- It may be its turn, and nobody has noticed.
  if free then
    local mirror = stockKeys(free)
    vacate(resources[free], mirror)
  end
  if waiting() then return finish('waits', S.text, int(next or 0)) end
end
return finish(S.whole().got(9))
