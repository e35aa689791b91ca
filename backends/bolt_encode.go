package backends

import (
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// The records that each lock and each release writes are put together here, byte for
// byte as package json does by the tags of their types, which readers go by. By
// reflection it was a quarter of the processor time that a lock takes more than stock's.

// object is a JSON object that is being written. Its methods leave out what is zero, as
// the tags of most fields say.
type object []byte

// usualRecord is room for a record of usual length, and usualStock for stock's form of a
// lock.
const (
	usualRecord = 512
	usualStock  = 1024
)

func newObject() object { return append(make(object, 0, usualRecord), '{') }

// name starts a field.
func (o *object) name(field string) {
	if (*o)[len(*o)-1] != '{' {
		*o = append(*o, ',')
	}
	*o = append(*o, '"')
	*o = append(*o, field...)
	*o = append(*o, '"', ':')
}

// open starts a field with an object of its own; close ends that.
func (o *object) open(name string) {
	o.name(name)
	*o = append(*o, '{')
}

func (o *object) close() { *o = append(*o, '}') }

// raw writes a field that is JSON already.
func (o *object) raw(name string, value []byte) {
	o.name(name)
	*o = append(*o, value...)
}

// value writes a field that is rare.
func (o *object) value(name string, v any) error {
	data, err := encode(v)
	if err != nil {
		return err
	}
	o.raw(name, data)
	return nil
}

func (o *object) text(name, s string) {
	if s != "" {
		o.anyText(name, s)
	}
}

// anyText is text for a field that is there in any case.
func (o *object) anyText(name, s string) {
	o.name(name)
	*o = appendText(*o, s)
}

func appendText(data []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c > '~' {
			// Its error says that s is no UTF-8, which it has replaced.
			data, _ = jsontext.AppendQuote(data, s) //nolint:errcheck // see above
			return data
		}
	}
	data = append(data, '"')
	data = append(data, s...)
	return append(data, '"')
}

func (o *object) number(name string, n int64) {
	if n != 0 {
		o.anyNumber(name, n)
	}
}

// anyNumber is number for a field that is there in any case.
func (o *object) anyNumber(name string, n int64) {
	o.name(name)
	*o = strconv.AppendInt(*o, n, 10)
}

// digits writes a number as a decimal string, in any case.
func (o *object) digits(name string, n int64) {
	o.name(name)
	*o = append(strconv.AppendInt(append(*o, '"'), n, 10), '"')
}

func (o *object) flag(name string, on bool) {
	if on {
		o.raw(name, []byte("true"))
	}
}

func (o *object) time(name string, t time.Time) error {
	o.name(name)
	data, err := t.AppendText(append(*o, '"'))
	*o = append(data, '"')
	return err
}

func (r *lockRecord) encode() ([]byte, error) {
	o := newObject()
	o.digits("n", r.Token)
	o.text("o", r.Owner)
	o.number("p", int64(r.Priority))
	o.number("a", r.Acquired)
	o.number("x", r.Expires)
	o.text("q", r.Request)
	if len(r.Metadata) > 0 {
		if err := o.value("m", r.Metadata); err != nil {
			return nil, err
		}
	}
	o.flag("k", r.Pending)
	o.flag("d", r.Disputed)
	o.text("s", r.Mirror)
	if r.Lock != nil {
		o.raw("l", r.Lock)
	}
	o.text("h", r.ShortOwner)
	if r.After != nil {
		o.anyNumber("w", *r.After)
	}
	o.text("u", r.ShortRequest)
	o.close()
	return o, nil
}

func (l *storedLock) encode() ([]byte, error) { return l.append(make([]byte, 0, usualStock)) }

func (l *storedLock) append(to []byte) ([]byte, error) {
	o := append(object(to), '{')
	o.open("Project")
	o.text("ProjectName", l.Project.ProjectName)
	o.anyText("RepoFullName", l.Project.RepoFullName)
	o.anyText("Path", l.Project.Path)
	o.close()
	if l.Pull != (storedPull{}) {
		o.open("Pull")
		l.Pull.writeTo(&o)
		o.close()
	}
	if l.User.Username != "" || l.User.Teams != nil {
		o.open("User")
		o.text("Username", l.User.Username)
		if len(l.User.Teams) > 0 {
			if err := o.value("Teams", l.User.Teams); err != nil {
				return nil, err
			}
		}
		o.close()
	}
	o.anyText("Workspace", l.Workspace)
	if err := o.time("Time", l.Time); err != nil {
		return nil, fmt.Errorf("the time of a lock: %w", err)
	}
	o.close()
	return o, nil
}

func (p *storedPull) writeTo(o *object) {
	o.number("Num", int64(p.Num))
	o.text("HeadCommit", p.HeadCommit)
	o.text("URL", p.URL)
	o.text("HeadBranch", p.HeadBranch)
	o.text("BaseBranch", p.BaseBranch)
	o.flag("HardenedNonPRRefCheckout", p.HardenedNonPRRefCheckout)
	o.text("Author", p.Author)
	o.text("Body", p.Body)
	o.number("State", int64(p.State))
	repo := &p.BaseRepo
	if *repo == (storedRepo{}) {
		return
	}
	o.open("BaseRepo")
	o.text("FullName", repo.FullName)
	o.text("Owner", repo.Owner)
	o.text("Name", repo.Name)
	o.text("SanitizedCloneURL", repo.SanitizedCloneURL)
	if repo.VCSHost != (storedHost{}) {
		o.open("VCSHost")
		o.text("Hostname", repo.VCSHost.Hostname)
		o.number("Type", int64(repo.VCSHost.Type))
		o.close()
	}
	o.close()
}

func (r *logRecord) encode() ([]byte, error) {
	o := newObject()
	o.anyNumber("t", r.Time)
	o.anyText("e", r.Type)
	if r.Token != 0 {
		o.digits("n", r.Token)
	}
	o.anyText("r", r.Resource)
	o.text("q", r.Request)
	o.text("a", r.Actor)
	o.text("c", r.Cause)
	o.text("w", r.Reason)
	o.text("u", r.Waiter)
	r.Before.writeTo(&o, "b")
	r.After.writeTo(&o, "z")
	if r.Ended != nil {
		o.anyText("i", *r.Ended)
	}
	if r.Deadlock != nil {
		if err := o.value("d", r.Deadlock); err != nil {
			return nil, err
		}
	}
	if r.Past != nil {
		o.anyNumber("k", *r.Past)
	}
	o.text("s", r.ShortRequest)
	o.close()
	return o, nil
}

// writeTo writes a summary, if there is one, as a field.
func (s *logSummary) writeTo(o *object, name string) {
	if s == nil {
		return
	}
	o.open(name)
	o.text("o", s.Owner)
	if s.Token != 0 {
		o.digits("n", s.Token)
	}
	o.number("x", s.Expires)
	o.text("k", s.Note)
	o.text("h", s.ShortOwner)
	o.close()
}
