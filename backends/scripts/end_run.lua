-- Ends what a pull request keeps while it plans.
--
-- KEYS  see the prelude, with the resource of each listed entry
-- ARGV  7 owner  8 number of the pull request  from 9 on entries of what it has
--       reserved
--
-- Answers  ended ENTRY ...: the entries of what it has reserved still, some of them
local owner = ARGV[7]
load()
if not S.known then return finish('ended') end
local runs = S.runs()
runs.removeTombstone(owner)
runs.unmark(ARGV[8])
for i = 9, #ARGV do
  local mirror, old = stockKeys(i - 8)
  runs.giveUp(ARGV[i], owner, 'request', mirror, old)
end
return finish('ended', unpack(runs.reservedBy(ownerEntry(owner, ''), 100)))
