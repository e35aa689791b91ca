package history

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// delayed puts operations behind a lease of alice that begins at 0, see lease, on a
// resource that stays closed for 100ms more, until 194 to 211ms.
func delayed(operations ...Operation) *History {
	h := sequence(append([]Operation{acquire(alice, "1").withLease().got(10).until(7)}, operations...)...)
	h.Delay = 100 * time.Millisecond
	return h
}

// closed shows a lock that has ended, and whose resource is closed.
func (op Operation) closed(answer Answer, token int64, owner string) Operation {
	op.Lock = &Lock{Token: token, Owner: owner, Expires: 8, Closed: true}
	return op.answered(answer)
}

func TestModelAcceptsWhatADelayDoes(t *testing.T) {
	for name, operations := range map[string][]Operation{
		"another owner gets it afterwards": {acquire(bob, "2").closed(Held, 10, alice).at(120, 121), acquire(bob, "3").got(11).at(195, 196)},
		"nobody asks meanwhile":            {acquire(bob, "2").got(11).at(195, 196)},
		"its owner gets it again":          {acquire(alice, "2").got(11).at(120, 121), acquire(bob, "3").shows(Held, 11, alice).at(130, 131)},
		"and ends it by that": {
			acquire(alice, "2").got(11).at(120, 121), of(Release, 11).done().at(130, 131), acquire(bob, "3").got(12).at(140, 141),
		},
		"force ends it":                  {on(ForceRelease).closed(Done, 10, alice).at(120, 121), acquire(bob, "2").got(11).at(130, 131)},
		"force finds nothing afterwards": {on(ForceRelease).answered(Absent).at(195, 196), acquire(bob, "2").got(11).at(200, 201)},
		"there is no lock":               {on(Lookup).answered(Absent).at(120, 121), of(Release, 10).answered(Expired).at(130, 131)},
		"a release leaves nothing":       {of(Release, 10).done(), acquire(bob, "2").got(11)},
		"an unknown acquire afterwards":  {acquire(bob, "2").sent(150), on(Lookup).shows(Done, 11, bob).at(200, 201)},
		"an unknown acquire of its owner": {
			acquire(alice, "2").sent(120), acquire(bob, "3").shows(Held, 11, alice).at(130, 131), of(Release, 11).done().at(140, 141),
		},
		"an unknown acquire that only its lapse shows": {
			of(Release, 10).done(), acquire(bob, "2").withLease().sent(10), acquire(alice, "3").closed(Held, 11, bob).at(150, 151),
			on(ForceRelease).closed(Done, 11, bob).at(160, 161), acquire(alice, "4").got(12).at(170, 171),
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, delayed(operations...).Judge().Problems)
		})
	}
}

func TestModelRefusesWhatNoDelayDoes(t *testing.T) {
	for name, operations := range map[string][]Operation{
		"another owner gets it too early":     {acquire(bob, "2").got(11).at(180, 190)},
		"another one, after a lookup":         {on(Lookup).answered(Absent).at(120, 121), acquire(bob, "2").got(11).at(130, 131)},
		"it is closed before the end":         {acquire(bob, "2").closed(Held, 10, alice).at(50, 51)},
		"it is closed for too long":           {acquire(bob, "2").closed(Held, 10, alice).at(215, 216)},
		"it is closed to its owner":           {acquire(alice, "2").closed(Held, 10, alice).at(120, 121)},
		"it is closed for somebody else":      {acquire(bob, "2").closed(Held, 10, pull5).at(120, 121)},
		"it is closed by another lock":        {acquire(bob, "2").closed(Held, 9, alice).at(120, 121)},
		"it is closed after a release":        {of(Release, 10).done(), acquire(bob, "2").closed(Held, 10, alice).at(120, 121)},
		"it is closed after force":            {on(ForceRelease).closed(Done, 10, alice).at(120, 121), acquire(bob, "2").closed(Held, 10, alice).at(130, 131)},
		"force finds nothing":                 {on(ForceRelease).answered(Absent).at(120, 121)},
		"the late release of its owner opens": {owned(alice).answered(Absent).at(120, 121), acquire(bob, "2").got(11).at(130, 131)},
		"an unknown acquire too early":        {acquire(bob, "2").sent(120), on(Lookup).shows(Done, 11, bob).at(150, 151)},
	} {
		t.Run(name, func(t *testing.T) {
			problems := delayed(operations...).Judge().Problems
			require.NotEmpty(t, problems)
			require.Contains(t, problems[0], "nothing explains")
		})
	}
}
