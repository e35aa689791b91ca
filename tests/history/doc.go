// Package history records what concurrent clients ask of a lock store and what
// they are answered, and judges whether one lock store that does one thing at
// a time could have given these answers (linearizability).
//
// A [Recorder] makes one [Client] for each goroutine; a [Workload] drives many
// clients at random. [History.Judge] has two referees that know nothing of each
// other: a model of one lock (model.go) under
// github.com/anishathalye/porcupine, and the order of the fencing tokens.
// [History.JudgeLog] holds the store's own log against the same history.
//
// # What makes a verdict sound
//
// A store that is right is never judged wrong:
//
//   - Time is the recorder's monotonic clock. The store's clock is not compared
//     with it: a lease of L that was granted between the call and the return of
//     an acquire ends between call+L and return+L, both widened by
//     [History.Slack].
//   - A store may stand still for readers while it writes: a lookup may show a
//     lease as it was when a write was sent that was answered after the lookup.
//   - A call whose outcome is unknown may have taken effect at any time after
//     it was sent, or never. Its return is [Never], and it counts as another
//     client's, since its caller went on.
//   - Each resource is judged alone. A history is linearizable exactly when its
//     part on each object is, so nothing is lost for calls on one resource.
//     Release-by-pull acts on many: it is recorded as one operation on each
//     resource, all with the interval of the call. In a right store it has one
//     moment in that interval, which is a right moment for each of them, so the
//     parts are all legal. What this does not check is that the moment is the
//     same one for all resources.
//
// What a definite error says is taken at its word: a [enhanced.LockError]
// without [enhanced.ErrOutcomeUnknown] claims that nothing has changed, and is
// judged by that claim.
//
// # A history that was kept
//
// [History.Keep] saves the evidence of a failing run in a directory and names
// it. To judge its history again:
//
//	ATLANTIS_LOCKS_HISTORY=DIR/history.json go test -run TestSavedHistories -v ./tests/history
package history
