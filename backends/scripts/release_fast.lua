-- The common case of release.lua, which follows with the prelude: the lock is
-- there, nothing is due, and the caller may. See acquire_fast.lua.
--
-- KEYS, ARGV  see release.lua
--
-- Answers  released LOCK
do
  local call, find, sub, resource, token, mirror = redis.call, string.find, string.sub, ARGV[7], ARGV[8], KEYS[6]
  local clock = call('TIME')
  local now = clock[1] .. sub('000000', #clock[2] + 1) .. clock[2]
  local v = call('HMGET', KEYS[1], 'token', 'sequence', 'locks', 'trimmed', 'wake', 'l' .. resource, 'd' .. resource)
  local sequence, locks, trimmed, limit = tonumber(v[2] or ''), tonumber(v[3] or ''), tonumber(v[4] or 0), tonumber(ARGV[2])
  local header, details = v[6], v[7]
  local common = sequence and locks and trimmed and header and details
  common = common and sequence % 64 ~= 63 and limit >= 1000 and sequence - trimmed - limit < 64
  -- The lines of a header, see parse.
  local a = common and find(header, '\n', 1, true)
  local b = a and find(header, '\n', a + 1, true)
  local c = b and find(header, '\n', b + 1, true)
  local e = c and find(header, '\n', c + 3, true)
  local f = e and find(header, '\n', e + 1, true)
  local g = f and find(header, '\n', f + 1, true)
  if g and not find(header, '\n', g + 1, true) and sub(details, 1, 1) == '{' then
    local its, acquired, expires, flag = sub(header, 1, a - 1), tonumber(sub(header, a + 1, b - 1)), sub(header, b + 1, c - 1), sub(header, c + 1, c + 1)
    local owner, request, note = sub(header, e + 1, f - 1), sub(header, f + 1, g - 1), sub(header, g + 1)
    local forced, actor, cause = ARGV[11] == '1', ARGV[12], 'request'
    common = acquired and #its == #now and (expires == '0' or #expires == #now and expires > now) and (token == '' or token == its)
    common = common and (forced or ARGV[10] == '' and (ARGV[9] == '' or ARGV[9] == owner))
    local stock = common and mirror and mirror ~= KEYS[1] and redis.pcall('GET', mirror)
    if common and (flag == '-' and not stock or flag == 'm' and (not mirror or stock == details)) then
      if forced then cause = 'forced' end
      if actor == owner then actor = '' end
      local entry = owner
      if sub(owner, 1, 3) == 'pr:' then
        local host = find(owner, '/', 4, true)
        entry = 'p' .. sub(owner, find(owner, '/', host + 1, true) + 1) .. '/' .. sub(owner, 4, host - 1)
      end
      entry = entry .. '\n' .. resource
      -- What is written first can fail, and is taken back.
      local indexed = call('ZREM', KEYS[3], entry)
      local lease = expires == '0' and 0 or redis.pcall('ZREM', KEYS[2], resource)
      local ending = type(lease) == 'number' and redis.pcall('RPUSH', KEYS[4], now .. ' ' .. its)
      local id = string.format('%d', sequence + 1)
      if type(ending) == 'number' and type(redis.pcall('XADD', KEYS[5], id .. '-0', 'd', now .. '\nreleased\n' .. resource .. '\n' ..
          its .. '\n' .. actor .. '\n' .. cause .. '\n\n' .. ARGV[13] .. '\n' .. owner .. '\n\n' .. expires .. '\n' .. note .. '\n\n\n\n')) ~= 'table' then
        call('HDEL', KEYS[1], 'l' .. resource, 'd' .. resource)
        call('HSET', KEYS[1], 'sequence', id, 'locks', string.format('%d', locks - 1),
          'i' .. its, 'released\n' .. resource .. '\n' .. owner .. '\n' .. request)
        if stock then call('DEL', mirror) end
        if v[5] and v[5] > now then redis.pcall(ARGV[4], ARGV[5], KEYS[1]) end
        return { 'released', 'released ' .. string.format('%d', now - acquired), header, details }
      end
      if indexed == 1 then call('ZADD', KEYS[3], '0', entry) end
      if lease == 1 then call('ZADD', KEYS[2], expires, resource) end
      if type(ending) == 'number' then call('RPOP', KEYS[4]) end
    end
  end
end
