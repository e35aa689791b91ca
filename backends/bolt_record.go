package backends

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// lockRecord is what is stored of a held lock beside stock's form of it. Times
// are microseconds by the store's clock. Names are short, since there are many
// records.
type lockRecord struct {
	// Token is a decimal string, as everywhere in the store: readers in other
	// languages lose digits of large numbers.
	Token    int64             `json:"n,string"`
	Owner    string            `json:"o,omitzero"`
	Priority enhanced.Priority `json:"p,omitzero"`
	Acquired int64             `json:"a,omitzero"`
	Expires  int64             `json:"x,omitzero"`
	Request  string            `json:"q,omitzero"`
	Metadata map[string]string `json:"m,omitempty"`
	// Pending says that nobody has claimed the lock yet: it expires unless its
	// owner asks for it.
	Pending bool `json:"k,omitzero"`
	// Disputed says that stock has a record of another owner on the resource, too,
	// and that the log says so.
	Disputed bool `json:"d,omitzero"`
	// Mirror is the checksum of stock's form under its legacy key. When it is
	// empty there is no such copy, and Lock holds the form itself.
	Mirror string         `json:"s,omitzero"`
	Lock   jsontext.Value `json:"l,omitzero"`
	// The short forms of Owner, Acquired and Request. They are in the file only.
	ShortOwner   string `json:"h,omitzero"`
	After        *int64 `json:"w,omitzero"` // from Acquired to Token
	ShortRequest string `json:"u,omitzero"`
}

// encodeLockRecord writes a record of a repository, as short as it can be.
func encodeLockRecord(repository string, record *lockRecord) ([]byte, error) {
	r := *record
	if r.ShortOwner = shortOwner(repository, r.Owner); r.ShortOwner != "" {
		r.Owner = ""
	}
	if r.After = after(r.Token, r.Acquired); r.After != nil {
		r.Acquired = 0
	}
	if r.ShortRequest = shortRequest(r.Request); r.ShortRequest != "" {
		r.Request = ""
	}
	return r.encode()
}

// lengthen puts the long forms in the place of the short ones.
func (r *lockRecord) lengthen(repository string) error {
	if r.Owner == "" && r.ShortOwner != "" {
		r.Owner = longOwner(repository, r.ShortOwner)
	}
	if r.Acquired == 0 && r.After != nil {
		r.Acquired = r.Token - *r.After
	}
	if r.Request == "" && r.ShortRequest != "" {
		var ok bool
		if r.Request, ok = longRequest(r.ShortRequest); !ok {
			return fmt.Errorf("request %q is no UUID", r.ShortRequest)
		}
	}
	r.ShortOwner, r.After, r.ShortRequest = "", nil, ""
	return nil
}

func (r *lockRecord) expiredAt(now int64) bool {
	return r.Expires != 0 && r.Expires <= now
}

func (r *lockRecord) summary() *enhanced.LockSummary {
	return &enhanced.LockSummary{
		Owner:     r.Owner,
		Token:     r.Token,
		ExpiresAt: timeOrNil(r.Expires),
		Note:      r.Metadata[enhanced.MetadataNote],
	}
}

func (r *lockRecord) logSummary() *logSummary {
	return &logSummary{Owner: r.Owner, Token: r.Token, Expires: r.Expires, Note: r.Metadata[enhanced.MetadataNote]}
}

// decodeLockRecord refuses what this code never writes, so that a damaged
// record counts as held instead of as something else.
func decodeLockRecord(repository string, data []byte) (*lockRecord, error) {
	var r lockRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	if err := r.lengthen(repository); err != nil {
		return nil, err
	}
	if _, err := enhanced.ParseOwner(r.Owner); err != nil {
		return nil, err
	}
	if r.Token <= 0 || r.Acquired <= 0 || r.Expires < 0 || r.Pending && r.Expires == 0 || (r.Mirror == "") == (r.Lock == nil) {
		return nil, fmt.Errorf("lock record has token %d, acquired %d, expires %d", r.Token, r.Acquired, r.Expires)
	}
	return &r, nil
}

// newLock puts a record and stock's form of the lock together, which it keeps.
// The tag is the repository's.
func newLock(tag string, resource enhanced.ResourceIdentifier, r *lockRecord, original *models.ProjectLock) *enhanced.EnhancedLock {
	// Times are shown in local time, as stock does.
	original.Time = original.Time.Local()
	state := enhanced.LockStateAcquired
	if r.Pending {
		state = enhanced.LockStatePending
	}
	return &enhanced.EnhancedLock{
		ID:           enhanced.FormatLockIDByTag(tag, r.Token),
		Resource:     resource,
		State:        state,
		Priority:     r.Priority,
		Owner:        r.Owner,
		AcquiredAt:   time.UnixMicro(r.Acquired),
		ExpiresAt:    timeOrNil(r.Expires),
		Metadata:     r.Metadata,
		Version:      r.Token,
		OriginalLock: original,
	}
}

func timeOrNil(micros int64) *time.Time {
	if micros == 0 {
		return nil
	}
	t := time.UnixMicro(micros)
	return &t
}

// checksum identifies stock's form of a lock, to notice when stock changed it.
func checksum(value []byte) string {
	sum := sha256.Sum256(value)
	return hex.EncodeToString(sum[:8])
}

// storedLock writes stock's form without empty fields, which stock reads as
// such: a record is a third of the size. It mirrors models.ProjectLock.
type storedLock struct {
	Project   storedProject
	Pull      storedPull `json:",omitzero"`
	User      storedUser `json:",omitzero"`
	Workspace string
	Time      time.Time
}

type storedProject struct {
	ProjectName  string `json:",omitzero"`
	RepoFullName string
	Path         string
}

type storedUser struct {
	Username string   `json:",omitzero"`
	Teams    []string `json:",omitempty"`
}

type storedPull struct {
	Num                      int                     `json:",omitzero"`
	HeadCommit               string                  `json:",omitzero"`
	URL                      string                  `json:",omitzero"`
	HeadBranch               string                  `json:",omitzero"`
	BaseBranch               string                  `json:",omitzero"`
	HardenedNonPRRefCheckout bool                    `json:",omitzero"`
	Author                   string                  `json:",omitzero"`
	Body                     string                  `json:",omitzero"`
	State                    models.PullRequestState `json:",omitzero"`
	BaseRepo                 storedRepo              `json:",omitzero"`
}

type storedRepo struct {
	FullName          string     `json:",omitzero"`
	Owner             string     `json:",omitzero"`
	Name              string     `json:",omitzero"`
	CloneURL          string     `json:"-"` // holds a credential
	SanitizedCloneURL string     `json:",omitzero"`
	VCSHost           storedHost `json:",omitzero"`
}

type storedHost struct {
	Hostname string             `json:",omitzero"`
	Type     models.VCSHostType `json:",omitzero"`
}

func encodeProjectLock(lock models.ProjectLock) ([]byte, error) {
	return appendProjectLock(make([]byte, 0, usualStock), lock)
}

// appendProjectLock is encodeProjectLock for a caller that has room.
func appendProjectLock(to []byte, lock models.ProjectLock) ([]byte, error) {
	lock = enhanced.SanitizeProjectLock(lock)
	pull, repo := lock.Pull, lock.Pull.BaseRepo
	stored := storedLock{
		Project: storedProject{lock.Project.ProjectName, lock.Project.RepoFullName, lock.Project.Path},
		Pull: storedPull{
			Num: pull.Num, HeadCommit: pull.HeadCommit, URL: pull.URL,
			HeadBranch: pull.HeadBranch, BaseBranch: pull.BaseBranch,
			HardenedNonPRRefCheckout: pull.HardenedNonPRRefCheckout,
			Author:                   pull.Author, Body: pull.Body, State: pull.State,
			BaseRepo: storedRepo{
				FullName: repo.FullName, Owner: repo.Owner, Name: repo.Name,
				SanitizedCloneURL: repo.SanitizedCloneURL,
				VCSHost:           storedHost(repo.VCSHost),
			},
		},
		User:      storedUser(lock.User),
		Workspace: lock.Workspace,
		Time:      lock.Time,
	}
	return stored.append(to)
}

// decodeProjectLock reads stock's form, written by stock or by us. It refuses
// JSON that is not a lock: stock's own zero values would read as a lock on
// nothing.
func decodeProjectLock(value []byte) (*models.ProjectLock, error) {
	var lock *models.ProjectLock
	if err := json.Unmarshal(value, &lock); err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, fmt.Errorf("null is not a lock")
	}
	return lock, nil
}

// logRecord is the stored form of [enhanced.LogRecord]. Its names are short
// since there are many.
type logRecord struct {
	Time     int64       `json:"t"`
	Type     string      `json:"e"`
	Token    int64       `json:"n,omitzero,string"`
	Resource string      `json:"r"`
	Request  string      `json:"q,omitzero"`
	Actor    string      `json:"a,omitzero"`
	Cause    string      `json:"c,omitzero"` // [enhanced.CauseRequest] is left out
	Reason   string      `json:"w,omitzero"`
	Waiter   string      `json:"u,omitzero"`
	Before   *logSummary `json:"b,omitzero"`
	After    *logSummary `json:"z,omitzero"`
	// Ended is set where a lock ended: the request that had got it.
	Ended *string `json:"i,omitzero"`
	// Deadlock is set in records of [enhanced.EventDeadlock] only.
	Deadlock *deadlockRecord `json:"d,omitzero"`
	// The short forms of Token and Request. They are in the file only.
	Past         *int64 `json:"k,omitzero"` // from Time to Token
	ShortRequest string `json:"s,omitzero"`
}

// logSummary is the stored form of [enhanced.LockSummary].
type logSummary struct {
	Owner   string `json:"o,omitzero"`
	Token   int64  `json:"n,omitzero,string"`
	Expires int64  `json:"x,omitzero"`
	Note    string `json:"k,omitzero"`
	// ShortOwner is the short form of Owner, in the file only.
	ShortOwner string `json:"h,omitzero"`
}

// owner returns the lock's owner after the change, or before it when it ended.
func (r *logRecord) owner() string {
	switch {
	case r.After != nil:
		return r.After.Owner
	case r.Before != nil:
		return r.Before.Owner
	default:
		return ""
	}
}

// waiter returns whose request the change is about, "" where it is not about a
// queue.
func (r *logRecord) waiter() string {
	if enhanced.IsQueueEvent(r.Type) {
		return cmp.Or(r.Waiter, r.Actor)
	}
	return ""
}

// encodeLogRecord writes a record of a repository's log, and leaves out what
// repeats: an actor that is the owner, in the summaries the record's own token,
// and the most frequent cause. The owner of a lock that ended is kept in full: in a
// damaged file it can prove the repository's name.
func encodeLogRecord(repository string, r logRecord) ([]byte, error) {
	if r.Actor == r.owner() {
		r.Actor = ""
	}
	if r.Waiter == r.Actor {
		r.Waiter = ""
	}
	r.Before, r.After = r.short(r.Before), r.short(r.After)
	if r.After != nil {
		if r.After.ShortOwner = shortOwner(repository, r.After.Owner); r.After.ShortOwner != "" {
			r.After.Owner = ""
		}
	}
	if r.Past = after(r.Token, r.Time); r.Past != nil {
		r.Token = 0
	}
	if r.ShortRequest = shortRequest(r.Request); r.ShortRequest != "" {
		r.Request = ""
	}
	if r.Cause == enhanced.CauseRequest {
		r.Cause = ""
	}
	return r.encode()
}

// short returns a copy of a summary without the record's own token.
func (r *logRecord) short(s *logSummary) *logSummary {
	if s == nil {
		return nil
	}
	short := *s
	if short.Token == r.Token {
		short.Token = 0
	}
	return &short
}

// readLogRecord reverses encodeLogRecord, but for what [logRecord.summary] and
// [logRecord.owner] put back.
func readLogRecord(repository string, data []byte) (*logRecord, error) {
	var r logRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	for _, s := range []*logSummary{r.Before, r.After} {
		if s == nil {
			continue
		}
		if s.Owner == "" && s.ShortOwner != "" {
			s.Owner = longOwner(repository, s.ShortOwner)
		}
		s.ShortOwner = ""
	}
	if r.Token == 0 && r.Past != nil {
		r.Token = r.Time + *r.Past
	}
	if r.Request == "" && r.ShortRequest != "" {
		var ok bool
		if r.Request, ok = longRequest(r.ShortRequest); !ok {
			return nil, fmt.Errorf("request %q is no UUID", r.ShortRequest)
		}
	}
	r.Cause = cmp.Or(r.Cause, enhanced.CauseRequest)
	r.Past, r.ShortRequest = nil, ""
	return &r, nil
}

// summary puts back what was left out of a summary.
func (r *logRecord) summary(s *logSummary) *enhanced.LockSummary {
	if s == nil {
		return nil
	}
	return &enhanced.LockSummary{
		Owner: s.Owner, Token: cmp.Or(s.Token, r.Token), ExpiresAt: timeOrNil(s.Expires), Note: s.Note,
	}
}

func decodeLogRecord(repository string, sequence uint64, data []byte) (*enhanced.LogRecord, error) {
	r, err := readLogRecord(repository, data)
	if err != nil {
		return nil, err
	}
	resource, err := enhanced.ParseResourceKey(repository, r.Resource)
	if err != nil {
		return nil, err
	}
	report, err := r.Deadlock.report(repository)
	if err != nil {
		return nil, err
	}
	lockID := ""
	if !enhanced.IsQueueEvent(r.Type) {
		lockID = enhanced.FormatLockID(repository, r.Token)
	}
	return &enhanced.LogRecord{
		Sequence: sequence, Time: time.UnixMicro(r.Time), Type: r.Type,
		LockID: lockID, RequestID: r.Request,
		Resource: resource, Token: r.Token, Actor: cmp.Or(r.Actor, r.owner()), Cause: r.Cause,
		Reason: r.Reason, Waiter: r.waiter(), Before: r.summary(r.Before), After: r.summary(r.After),
		Deadlock: report,
	}, nil
}
