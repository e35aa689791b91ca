package history

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The cases are written as calls that follow each other, 10ms apart and 5ms
// long, unless at says otherwise.

const (
	ms = int64(time.Millisecond)
	// lease is what leased acquires of the cases ask for; with the slack it
	// ends 94 to 111ms after a call at 0.
	lease = 100 * time.Millisecond
)

func on(kind Kind) Operation { return Operation{Kind: kind, Repository: "org/app", Resource: "r"} }

func acquire(owner, request string) Operation {
	op := on(Acquire)
	op.Owner, op.Request = owner, request
	return op
}

func of(kind Kind, token int64) Operation {
	op := on(kind)
	op.Token = token
	return op
}

func transfer(token int64, to string) Operation {
	op := of(Transfer, token)
	op.Owner = to
	return op
}

func owned(owner string) Operation {
	op := on(ReleaseOwned)
	op.Owner = owner
	return op
}

func byPull(repository string, number int) Operation {
	op := on(ReleaseByPull)
	op.PullRepository, op.PullNumber = repository, number
	return op
}

func (op Operation) answered(answer Answer) Operation { op.Answer = answer; return op }
func (op Operation) done() Operation                  { return op.answered(Done) }
func (op Operation) unknown() Operation               { op.Return = Never; return op.answered(Unknown) }

// shows gives the answer a lock. Without a lease.
func (op Operation) shows(answer Answer, token int64, owner string) Operation {
	op.Lock = &Lock{Token: token, Owner: owner}
	return op.answered(answer)
}

// got is the answer to an acquire that was granted.
func (op Operation) got(token int64) Operation { return op.shows(Done, token, op.Owner) }

// until says that the lock that is shown has a lease.
func (op Operation) until(expires int64) Operation {
	op.Lock = &Lock{Token: op.Lock.Token, Owner: op.Lock.Owner, Expires: expires}
	return op
}

// withLease makes an acquire or a refresh ask for a lease.
func (op Operation) withLease() Operation { op.Lease = lease; return op }

// at is when the call was made and answered, in milliseconds.
func (op Operation) at(call, ret int64) Operation {
	op.Call, op.Return = call*ms, ret*ms
	return op
}

// sent is when a call was made whose outcome is unknown.
func (op Operation) sent(call int64) Operation { op.Call = call * ms; return op.unknown() }

// sequence puts the operations one after another.
func sequence(operations ...Operation) *History {
	h := &History{Slack: leaseSlack}
	now := int64(0)
	for i, op := range operations {
		if op.Client = i; op.Call == 0 && (op.Return == 0 || op.Return == Never) {
			op.Call = now
			if op.Return != Never {
				op.Return = now + 5*ms
			}
		}
		now = op.Call + 10*ms
		h.Operations = append(h.Operations, op)
	}
	return h
}

const (
	alice = "user:alice"
	bob   = "user:bob"
	pull5 = "pr:github.com/org%2Fapp/5"
)

func TestModelAcceptsWhatALockCanDo(t *testing.T) {
	for name, operations := range map[string][]Operation{
		"nothing": {},
		"a lock changes hands": {
			acquire(alice, "1").got(10), acquire(bob, "2").shows(Held, 10, alice), of(Release, 10).done(),
			acquire(bob, "2").got(11), on(Lookup).shows(Done, 11, bob),
		},
		"of two at once one wins": {
			acquire(alice, "1").got(10).at(0, 20), acquire(bob, "2").shows(Held, 10, alice).at(1, 15),
		},
		"a loser is answered before the winner": {
			acquire(alice, "1").got(10).at(0, 50), acquire(bob, "2").shows(Held, 10, alice).at(1, 15), on(Lookup).shows(Done, 10, alice).at(20, 25),
		},
		"a reader sees a change before its caller": {
			acquire(alice, "1").got(10), of(Release, 10).done().at(20, 60), on(Lookup).answered(Absent).at(30, 31), acquire(bob, "2").got(11).at(40, 41),
		},
		"a request that is repeated": {
			acquire(alice, "1").got(10), acquire(alice, "1").got(10), of(Release, 10).done(), acquire(alice, "1").answered(Expired),
		},
		"a request of another owner": {
			acquire(alice, "1").got(10), acquire(bob, "1").answered(Invalid), of(Release, 10).done(), acquire(bob, "1").answered(Invalid),
		},
		"a release that is repeated": {
			acquire(alice, "1").got(10), of(Release, 10).done(), acquire(bob, "2").got(11), of(Release, 10).done(), on(Lookup).shows(Done, 11, bob),
		},
		"by owner and by force": {
			acquire(alice, "1").got(10), owned(bob).shows(Denied, 10, alice), owned(alice).shows(Done, 10, alice), owned(alice).answered(Absent),
			acquire(bob, "2").got(11), on(ForceRelease).shows(Done, 11, bob), on(ForceRelease).answered(Absent),
		},
		"by pull": {
			acquire(pull5, "1").got(10), byPull("org/app", 55).answered(Absent), byPull("org/ap", 5).answered(Absent),
			byPull("org/app", 5).shows(Done, 10, pull5), byPull("org/app", 5).answered(Absent),
			acquire(alice, "2").got(11), byPull("org/app", 5).answered(Absent), on(Lookup).shows(Done, 11, alice),
		},
		"a lease ends": {
			acquire(alice, "1").withLease().got(10).until(7), on(Lookup).shows(Done, 10, alice).until(7).at(90, 91),
			on(Lookup).answered(Absent).at(120, 121), of(Refresh, 10).withLease().answered(Expired), of(Release, 10).answered(Expired),
			acquire(bob, "2").got(11), acquire(alice, "1").withLease().answered(Expired),
		},
		"a lease ends a little early": {acquire(alice, "1").withLease().got(10).until(7), acquire(bob, "2").got(11).at(94, 95)},
		"a lease ends a little late":  {acquire(alice, "1").withLease().got(10).until(7), acquire(bob, "2").shows(Held, 10, alice).until(7).at(110, 111)},
		"a lease counts from when it was granted": {
			acquire(alice, "1").withLease().got(10).until(7).at(0, 80), acquire(bob, "2").shows(Held, 10, alice).until(7).at(180, 181),
		},
		"a lease counts from before its lock is seen": {
			acquire(alice, "1").withLease().got(10).until(7).at(0, 80), on(Lookup).answered(Absent).at(60, 61), acquire(bob, "2").got(11).at(95, 96),
		},
		"a lease that is over before its lock is seen": {
			acquire(alice, "1").withLease().got(10).until(7).at(0, 200), acquire(bob, "2").got(11).at(120, 210),
		},
		"the last moment of a lease": {
			// The release was decided in time, the reader came later.
			acquire(alice, "1").withLease().got(10).until(7), of(Release, 10).done().at(95, 130), on(Lookup).answered(Absent).at(112, 113),
		},
		"a refresh": {
			acquire(alice, "1").withLease().got(10).until(7), of(Refresh, 10).withLease().done().at(50, 55),
			on(Lookup).shows(Done, 10, alice).until(8).at(120, 121), acquire(bob, "2").got(11).at(170, 171),
		},
		"no lease to refresh": {acquire(alice, "1").got(10), of(Refresh, 10).withLease().answered(Invalid)},
		"a transfer": {
			acquire(alice, "1").withLease().got(10).until(7), transfer(10, bob).done(), on(Lookup).shows(Done, 11, bob).until(7),
			of(Release, 10).answered(Absent), of(Refresh, 10).withLease().answered(Absent), transfer(10, alice).answered(Absent),
			acquire(alice, "1").withLease().answered(Expired), of(Release, 11).done(), acquire(alice, "2").got(12),
		},
		"a transfer to its owner": {acquire(alice, "1").got(10), transfer(10, alice).done(), of(Release, 10).done()},
		"a transfer keeps the lease": {
			acquire(alice, "1").withLease().got(10).until(7), transfer(10, bob).done(), acquire(alice, "2").got(12).at(120, 121),
		},
		"an unknown acquire that happened": {
			acquire(alice, "1").unknown(), acquire(bob, "2").shows(Held, 10, alice), on(ForceRelease).shows(Done, 10, alice),
		},
		"an unknown acquire that did not happen":   {acquire(alice, "1").unknown(), acquire(bob, "2").got(10), on(Lookup).shows(Done, 10, bob)},
		"an unknown acquire that happened late":    {acquire(alice, "1").unknown(), acquire(bob, "2").got(10), of(Release, 10).done(), on(Lookup).shows(Done, 11, alice)},
		"an unknown acquire that is repeated":      {acquire(alice, "1").unknown(), acquire(bob, "2").shows(Held, 10, alice), acquire(alice, "1").got(10)},
		"an unknown acquire that nobody has seen":  {acquire(alice, "1").withLease().unknown(), acquire(alice, "1").withLease().answered(Expired).at(120, 125)},
		"an unknown release that happened":         {acquire(alice, "1").got(10), of(Release, 10).unknown(), on(Lookup).shows(Done, 10, alice), acquire(bob, "2").got(11)},
		"an unknown release that did not happen":   {acquire(alice, "1").got(10), of(Release, 10).unknown(), on(Lookup).shows(Done, 10, alice)},
		"unknown releases of other kinds":          {acquire(pull5, "1").got(10), byPull("org/app", 5).unknown(), acquire(alice, "2").got(11), owned(alice).unknown(), acquire(bob, "3").got(12), on(ForceRelease).unknown(), on(Lookup).answered(Absent)},
		"an unknown refresh that happened":         {acquire(alice, "1").withLease().got(10).until(7), of(Refresh, 10).withLease().sent(50), on(Lookup).shows(Done, 10, alice).until(8).at(140, 141)},
		"an unknown refresh that did not happen":   {acquire(alice, "1").withLease().got(10).until(7), of(Refresh, 10).withLease().sent(50), acquire(bob, "2").got(11).at(111, 112)},
		"an unknown transfer that happened":        {acquire(alice, "1").got(10), transfer(10, bob).unknown(), of(Release, 10).answered(Absent), acquire(alice, "2").shows(Held, 11, bob)},
		"calls that say that they did nothing":     {acquire(alice, "1").answered(Nothing), acquire(bob, "2").got(10), of(Release, 10).answered(Failed), on(Lookup).shows(Done, 10, bob)},
		"an unknown acquire between two that know": {acquire(alice, "1").got(10), of(Release, 10).done(), acquire(bob, "2").sent(16), acquire(alice, "3").shows(Held, 15, bob).at(20, 25), owned(bob).shows(Done, 15, bob)},
	} {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, sequence(operations...).Judge().Problems)
		})
	}
}

func TestModelRefusesWhatNoLockDoes(t *testing.T) {
	held := func(more ...Operation) []Operation { return append([]Operation{acquire(alice, "1").got(10)}, more...) }
	leased := func(more ...Operation) []Operation {
		return append([]Operation{acquire(alice, "1").withLease().got(10).until(7)}, more...)
	}
	for name, operations := range map[string][]Operation{
		"two holders":                                       held(acquire(bob, "2").got(11)),
		"two winners at once":                               {acquire(alice, "1").got(10).at(0, 20), acquire(bob, "2").got(11).at(0, 20)},
		"the holder gets it twice":                          held(acquire(alice, "2").got(11)),
		"a token twice":                                     held(of(Release, 10).done(), acquire(bob, "2").got(10)),
		"a smaller token":                                   held(of(Release, 10).done(), acquire(bob, "2").got(9)),
		"granted to somebody else":                          {acquire(alice, "1").shows(Done, 10, bob)},
		"granted without a lock":                            {acquire(alice, "1").done()},
		"refused while free":                                {acquire(bob, "2").shows(Held, 10, alice)},
		"refused for a holder that is gone":                 held(of(Release, 10).done(), acquire(bob, "2").shows(Held, 10, alice)),
		"refused for the wrong holder":                      held(acquire(bob, "2").shows(Held, 10, "user:carol")),
		"refused with the wrong token":                      held(acquire(bob, "2").shows(Held, 11, alice)),
		"refused for an unreadable record":                  held(acquire(bob, "2").answered(Held)),
		"looked up as free":                                 held(on(Lookup).answered(Absent)),
		"looked up as held":                                 held(of(Release, 10).done(), on(Lookup).shows(Done, 10, alice)),
		"a request gets a second lock":                      held(acquire(alice, "1").got(11)),
		"a request gets a lock again":                       held(of(Release, 10).done(), acquire(alice, "1").got(11)),
		"a request is refused its own lock":                 held(acquire(alice, "1").shows(Held, 10, alice)),
		"a request of the past is refused":                  held(of(Release, 10).done(), acquire(bob, "2").got(11), acquire(alice, "1").shows(Held, 11, bob)),
		"a request is gone while it holds":                  held(acquire(alice, "1").answered(Expired)),
		"a new request is gone":                             {acquire(alice, "1").answered(Expired)},
		"a request is somebody else's":                      held(acquire(bob, "1").answered(Expired)),
		"a new request is invalid":                          {acquire(alice, "1").answered(Invalid)},
		"an old release frees the next lock":                held(of(Release, 10).done(), acquire(bob, "2").got(11), of(Release, 10).done(), acquire(alice, "3").got(12)),
		"a release without effect":                          held(of(Release, 10).done(), on(Lookup).shows(Done, 10, alice)),
		"a release that is refused":                         held(of(Release, 10).answered(Absent)),
		"a release of a lock that never was":                held(of(Release, 9).done()),
		"a release that is forgotten":                       held(of(Release, 10).done(), of(Release, 10).answered(Absent)),
		"no lease, and yet expired":                         held(of(Release, 10).answered(Expired).at(500, 505)),
		"no lease, and yet free":                            held(acquire(bob, "2").got(11).at(500, 505)),
		"no lease, and yet refreshed":                       held(of(Refresh, 10).withLease().done()),
		"a lease that can't be refreshed":                   leased(of(Refresh, 10).withLease().answered(Invalid)),
		"a lease that was not asked for":                    {acquire(alice, "1").got(10).until(7)},
		"a lease that was asked for":                        {acquire(alice, "1").withLease().got(10)},
		"a lease ends too early":                            leased(acquire(bob, "2").got(11).at(80, 90)),
		"a lease ends too early, by ID":                     leased(of(Release, 10).answered(Expired).at(80, 90)),
		"an expired lock refuses":                           leased(acquire(bob, "2").shows(Held, 10, alice).until(7).at(120, 121)),
		"an expired lock is shown":                          leased(on(Lookup).shows(Done, 10, alice).until(7).at(120, 121)),
		"an expired lock is released":                       leased(of(Release, 10).done().at(120, 121)),
		"an expired lock is forced":                         leased(on(ForceRelease).shows(Done, 10, alice).until(7).at(120, 121)),
		"an expired lock is refreshed":                      leased(of(Refresh, 10).withLease().done().at(120, 121)),
		"an expired lock is transferred":                    leased(transfer(10, bob).done().at(120, 121)),
		"an expired lock denies":                            leased(owned(bob).shows(Denied, 10, alice).until(7).at(120, 121)),
		"an expired lock comes back":                        leased(on(Lookup).answered(Absent).at(95, 96), of(Refresh, 10).withLease().done().at(97, 98)),
		"a reader sees the end of a lock that is refreshed": leased(of(Refresh, 10).withLease().done().at(80, 110), on(Lookup).answered(Absent).at(100, 101), on(Lookup).shows(Done, 10, alice).until(8).at(115, 116)),
		"a lease changes by itself":                         leased(on(Lookup).shows(Done, 10, alice).until(8)),
		"a lease gets lost":                                 leased(on(Lookup).shows(Done, 10, alice)),
		"a refresh without effect":                          leased(of(Refresh, 10).withLease().done().at(50, 55), acquire(bob, "2").got(11).at(120, 121)),
		"a refresh of a released lock":                      leased(of(Release, 10).done(), of(Refresh, 10).withLease().done()),
		"a refresh of a past lock":                          leased(of(Release, 10).done(), acquire(bob, "2").withLease().got(11).until(8), of(Refresh, 10).withLease().done()),
		"a refresh that is refused":                         leased(of(Refresh, 10).withLease().answered(Absent)),
		"another owner releases":                            held(owned(bob).shows(Done, 10, alice)),
		"the owner is denied":                               held(owned(alice).shows(Denied, 10, alice)),
		"denied while free":                                 {owned(bob).shows(Denied, 10, alice)},
		"the owner finds nothing":                           held(owned(alice).answered(Absent)),
		"force finds nothing":                               held(on(ForceRelease).answered(Absent)),
		"force without effect":                              held(on(ForceRelease).shows(Done, 10, alice), on(Lookup).shows(Done, 10, alice)),
		"by pull, another number":                           {acquire(pull5, "1").got(10), byPull("org/app", 55).shows(Done, 10, pull5)},
		"by pull, another repository":                       {acquire(pull5, "1").got(10), byPull("org/ap", 5).shows(Done, 10, pull5)},
		"by pull, a user's lock":                            held(byPull("org/app", 5).shows(Done, 10, alice)),
		"by pull, missed":                                   {acquire(pull5, "1").got(10), byPull("org/app", 5).answered(Absent)},
		"by pull, in silence":                               {acquire(pull5, "1").got(10), byPull("org/app", 55).answered(Absent), acquire(alice, "2").got(11)},
		"a transfer keeps the token":                        held(transfer(10, bob).done(), on(Lookup).shows(Done, 10, bob)),
		"a transfer keeps the owner":                        held(transfer(10, bob).done(), on(Lookup).shows(Done, 11, alice)),
		"a transfer keeps the old ID":                       held(transfer(10, bob).done(), of(Release, 10).done()),
		"a transfer makes a lease endless":                  leased(transfer(10, bob).done(), on(Lookup).shows(Done, 11, bob).until(7).at(120, 121)),
		"a transfer keeps the request":                      held(transfer(10, bob).done(), acquire(alice, "1").got(11)),
		"a transfer of a past lock":                         held(of(Release, 10).done(), transfer(10, bob).done()),
		"an unknown acquire with two tokens":                {acquire(alice, "1").unknown(), on(Lookup).shows(Done, 10, alice), on(Lookup).shows(Done, 11, alice)},
		"an unknown acquire happens twice":                  {acquire(alice, "1").unknown(), on(ForceRelease).shows(Done, 10, alice), on(Lookup).shows(Done, 11, alice)},
		"an unknown acquire happens before":                 {on(Lookup).shows(Done, 10, alice), acquire(alice, "1").unknown()},
		"an unknown acquire happens while held":             held(acquire(bob, "2").unknown(), on(Lookup).shows(Done, 11, bob)),
		"an unknown acquire, then a new lock":               {acquire(alice, "1").unknown(), on(Lookup).shows(Done, 10, alice), acquire(alice, "1").got(11)},
		"an unknown release happens before":                 held(acquire(bob, "2").got(11), of(Release, 10).unknown()),
		"an unknown release is undone":                      held(of(Release, 10).unknown(), on(Lookup).answered(Absent), on(Lookup).shows(Done, 10, alice)),
		"an unknown release by another owner":               held(owned(bob).unknown(), on(Lookup).answered(Absent)),
		"an unknown by-pull of another":                     {acquire(pull5, "1").got(10), byPull("org/ap", 5).unknown(), on(Lookup).answered(Absent)},
		"an unknown refresh is no end":                      held(of(Refresh, 10).withLease().unknown(), on(Lookup).answered(Absent).at(500, 501)),
		"a call that did nothing took effect":               {acquire(alice, "1").answered(Nothing), on(Lookup).shows(Done, 10, alice)},
		"a call that failed took effect":                    held(of(Release, 10).answered(Failed), on(Lookup).answered(Absent)),
		"an answer from the future":                         {on(Lookup).shows(Done, 10, alice), acquire(alice, "1").got(10)},
		"an answer that can't be":                           held(on(Lookup).answered(Expired)),
	} {
		t.Run(name, func(t *testing.T) {
			problems := sequence(operations...).Judge().Problems
			require.NotEmpty(t, problems)
			require.Contains(t, problems[0], "nothing explains")
		})
	}
}

// elsewhere puts an operation on another resource.
func (op Operation) elsewhere(repository, resource string) Operation {
	op.Repository, op.Resource = repository, resource
	return op
}

func TestResourcesAreJudgedAlone(t *testing.T) {
	require.Empty(t, sequence(
		acquire(alice, "1").got(10), acquire(bob, "2").got(11).elsewhere("org/app", "other"), acquire(bob, "3").got(10).elsewhere("org/app-prod", "r"),
		on(Lookup).shows(Done, 10, alice),
	).Judge().Problems)
	require.Empty(t, sequence( // what was granted elsewhere explains nothing here
		acquire(alice, "1").unknown(), acquire(bob, "2").got(10).elsewhere("org/app-prod", "r"), acquire(bob, "3").shows(Held, 10, alice),
	).Judge().Problems)
	problems := sequence(
		acquire(alice, "1").got(10), acquire(bob, "2").got(11).elsewhere("org/app", "other"), acquire(bob, "3").got(12),
	).Judge().Problems
	require.Len(t, problems, 1)
	require.True(t, strings.HasPrefix(problems[0], "org/app r:"), problems[0])
}

func TestTokensOfARepository(t *testing.T) {
	for name, test := range map[string]struct {
		operations []Operation
		want       string
	}{
		"one token for two resources": {
			[]Operation{acquire(alice, "1").got(10).at(0, 50), acquire(bob, "2").got(10).elsewhere("org/app", "other").at(0, 50)}, "one token for two grants",
		},
		"a smaller token later": {
			[]Operation{acquire(alice, "1").got(10), acquire(bob, "2").got(9).elsewhere("org/app", "other")}, "token 9 was granted after 10",
		},
		"at once in any order": {
			[]Operation{acquire(alice, "1").got(10).at(0, 50), acquire(bob, "2").got(9).elsewhere("org/app", "other").at(5, 55)}, "",
		},
		"another repository": {
			[]Operation{acquire(alice, "1").got(10), acquire(bob, "2").got(9).elsewhere("org/app-prod", "r")}, "",
		},
		"an answer that is repeated": {
			[]Operation{acquire(alice, "1").got(10), acquire(bob, "2").got(11).elsewhere("org/app", "other"), acquire(alice, "1").got(10)}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			problems := sequence(test.operations...).Judge().Problems
			if test.want == "" {
				require.Empty(t, problems)
				return
			}
			require.Len(t, problems, 1)
			require.Contains(t, problems[0], test.want)
		})
	}
}

func TestContendedGrants(t *testing.T) {
	verdict := sequence(
		acquire(alice, "1").got(10).at(0, 20), acquire(bob, "2").shows(Held, 10, alice).at(10, 30), // contended
		of(Release, 10).done().at(40, 45),
		acquire(bob, "3").got(11).at(50, 60),  // alone
		acquire(alice, "4").sent(1).unknown(), // does not count: it may be over
	).Judge()
	require.Empty(t, verdict.Problems)
	require.Equal(t, 2, verdict.Grants)
	require.Equal(t, 1, verdict.Contended)
	require.Equal(t, 1, verdict.Unknown)
}

// A lease that has ended may be shown to a reader while a write is under way
// that was sent before its end, and never otherwise.
func TestLookupDuringAWrite(t *testing.T) {
	t.Parallel()
	at := func(op Operation, client int, call, end int64) Operation {
		op.Client, op.Call, op.Return = client, call*ms, end*ms
		return op
	}
	granted := acquire("user:a", "one").shows(Done, 1, "user:a")
	granted.Lease, granted.Lock.Expires = lease, 7
	other := acquire("user:b", "two").shows(Done, 2, "user:b")
	other.Resource = "other"
	seen := on(Lookup).shows(Done, 1, "user:a")
	seen.Lock.Expires = 7
	for name, c := range map[string]struct {
		write Operation
		legal bool
	}{
		"under way since before": {at(other, 1, 90, 310), true},
		"sent after the end":     {at(other, 1, 150, 310), false},
		"answered before":        {at(other, 1, 90, 290), false},
	} {
		h := &History{Slack: leaseSlack, Operations: []Operation{at(granted, 0, 0, 5), c.write, at(seen, 2, 300, 301)}}
		require.Equal(t, c.legal, h.Judge().Legal(), name)
	}
}
