package enhanced

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/runatlantis/atlantis/server/events/models"
)

// OwnerKind tells the kinds of owner apart. Different kinds are different
// owners, even for the author of a pull request.
type OwnerKind string

// The kinds of owner.
const (
	// OwnerPull is a pull request of one repository on one VCS host.
	OwnerPull OwnerKind = "pr"
	// OwnerUser is a person or a program, by name.
	OwnerUser OwnerKind = "user"
	// OwnerSystem acts for callers that carry no identity. It never holds a lock.
	OwnerSystem OwnerKind = "system"
)

// Actors that are not owners.
const (
	// SystemAtlantis acts in the stock methods that carry no owner (Unlock,
	// UnlockByPull) and in what stock Atlantis does to its own records.
	SystemAtlantis = "system:atlantis"
	// SystemStore ends what is due by the store's clock.
	SystemStore = "system:store"
)

// Owner is who holds or waits for a lock. Its text form is
// "pr:HOST/REPOSITORY/NUMBER" or "user:NAME" with every part percent-escaped,
// so that no two owners share one text. Owners are comparable values.
type Owner struct {
	Kind OwnerKind
	// Host and Repository and Number identify a pull request.
	Host       string
	Repository string
	Number     int
	// Name identifies a user or a part of the system.
	Name string
}

// PullOwner returns the owner that stands for a pull request of repository.
// The host may be empty for records that were written before Atlantis stored it.
func PullOwner(host, repository string, number int) Owner {
	return Owner{Kind: OwnerPull, Host: host, Repository: repository, Number: number}
}

// UserOwner returns the owner that stands for a user.
func UserOwner(name string) Owner {
	return Owner{Kind: OwnerUser, Name: name}
}

// ProjectLockOwner returns the pull request that holds a lock of stock
// Atlantis. A pull request only locks projects of its own repository, so the
// repository is the project's.
func ProjectLockOwner(lock models.ProjectLock) Owner {
	return PullOwner(lock.Pull.BaseRepo.VCSHost.Hostname, lock.Project.RepoFullName, lock.Pull.Num)
}

// String returns the text form.
func (o Owner) String() string {
	if o.Kind == OwnerPull {
		return string(o.Kind) + ":" + url.PathEscape(o.Host) + "/" + url.PathEscape(o.Repository) + "/" + strconv.Itoa(o.Number)
	}
	return string(o.Kind) + ":" + url.PathEscape(o.Name)
}

// Describe returns the owner in words, for people: "pull request 5 on
// github.com", "user alice". It leaves out the repository, which for a pull
// request is that of the lock.
func (o Owner) Describe() string {
	switch {
	case o.Kind != OwnerPull:
		return string(o.Kind) + " " + quoteIfOdd(o.Name)
	case o.Host == "":
		return "pull request " + strconv.Itoa(o.Number)
	default:
		return "pull request " + strconv.Itoa(o.Number) + " on " + quoteIfOdd(o.Host)
	}
}

// DescribeOwner is [Owner.Describe] for an owner in text form. Other text stays
// as it is.
func DescribeOwner(text string) string {
	owner, err := ParseOwner(text)
	if err != nil {
		return text
	}
	return owner.Describe()
}

// SamePull reports whether both owners are the same pull request. Records that
// were written before Atlantis stored the host have none; such a record
// matches the pull request with its repository and number on any host.
func (o Owner) SamePull(recorded Owner) bool {
	if o.Kind != OwnerPull || recorded.Kind != OwnerPull {
		return false
	}
	hostMatches := recorded.Host == "" || o.Host == recorded.Host
	return hostMatches && o.Repository == recorded.Repository && o.Number == recorded.Number
}

// ParseOwner reads the text form. Its error is an INVALID_REQUEST that shows
// the text and the forms that are accepted.
func ParseOwner(text string) (Owner, error) {
	owner, ok := parseOwner(text)
	if !ok {
		return Owner{}, NewInvalidError("owner %q is neither \"pr:HOST/REPOSITORY/NUMBER\" nor \"user:NAME\" with percent-escaped parts", clip(text))
	}
	return owner, nil
}

// parseOwner accepts only what [Owner.String] writes.
func parseOwner(text string) (Owner, bool) {
	kind, rest, found := strings.Cut(text, ":")
	switch OwnerKind(kind) {
	case OwnerPull:
		hostPart, rest, _ := strings.Cut(rest, "/")
		repositoryPart, numberPart, _ := strings.Cut(rest, "/")
		host, hostOK := unescape(hostPart)
		repository, repositoryOK := unescape(repositoryPart)
		number, err := strconv.Atoi(numberPart)
		return PullOwner(host, repository, number),
			found && hostOK && repositoryOK && err == nil && strconv.Itoa(number) == numberPart
	case OwnerUser, OwnerSystem:
		name, ok := unescape(rest)
		return Owner{Kind: OwnerKind(kind), Name: name}, found && ok && name != ""
	default:
		return Owner{}, false
	}
}

// unescape reverses [url.PathEscape], and refuses what that does not write.
func unescape(part string) (string, bool) {
	text, err := url.PathUnescape(part)
	return text, err == nil && url.PathEscape(text) == part
}
