package enhanced

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/runatlantis/atlantis/server/events/models"
)

// ResourceType tells kinds of resources apart. Resources of different types
// never exclude each other.
type ResourceType string

// The types of resource. Atlantis locks projects only; the others are for
// programs that share the store.
const (
	ResourceTypeProject   ResourceType = "project"
	ResourceTypeWorkspace ResourceType = "workspace"
	ResourceTypeGlobal    ResourceType = "global"
	ResourceTypeCustom    ResourceType = "custom"
)

// maxResourceKey bounds the stored form of a resource, so that every key that
// contains it stays below bbolt's limit of 32,768 bytes.
const maxResourceKey = 16_000

// ResourceIdentifier names what is locked, at the granularity of stock
// Atlantis: a project of a repository in a workspace. The zero Type means
// [ResourceTypeProject].
type ResourceIdentifier struct {
	Type ResourceType
	// Namespace is the repository's full name, "owner/name".
	Namespace string
	// Path is the project's directory relative to the repository's root, "."
	// for the root itself.
	Path string
	// Name is the project's name, often empty.
	Name string
	// Workspace is the Terraform workspace.
	Workspace string
}

// ProjectResource returns the resource that stock Atlantis locks for a project
// and workspace. The path is cleaned as models.NewProject does it; nothing
// else is folded.
func ProjectResource(project models.Project, workspace string) ResourceIdentifier {
	return ResourceIdentifier{
		Type:      ResourceTypeProject,
		Namespace: project.RepoFullName,
		Path:      models.NewProject("", project.Path, "").Path,
		Name:      project.ProjectName,
		Workspace: workspace,
	}
}

// Project returns the project part of the resource.
func (r ResourceIdentifier) Project() models.Project {
	return models.Project{RepoFullName: r.Namespace, Path: r.Path, ProjectName: r.Name}
}

// Normalized returns the resource with its type filled in and, for a project,
// its path cleaned as models.NewProject does it.
func (r ResourceIdentifier) Normalized() ResourceIdentifier {
	r.Type = cmp.Or(r.Type, ResourceTypeProject)
	if r.Type == ResourceTypeProject {
		return ProjectResource(r.Project(), r.Workspace)
	}
	return r
}

// LegacyKey returns the key under which stock Atlantis stores a lock on this
// resource. Different resources can share one legacy key.
func (r ResourceIdentifier) LegacyKey() string {
	// As models.GenerateLockKey does it, without its formatting.
	return r.Namespace + "/" + r.Path + "/" + r.Workspace + "/" + r.Name
}

// String describes the resource for messages.
func (r ResourceIdentifier) String() string {
	kind, project := "", ""
	if r.Type != "" && r.Type != ResourceTypeProject {
		kind = string(r.Type) + " "
	}
	if r.Name != "" {
		project = ", project " + quoteIfOdd(r.Name)
	}
	return kind + quoteIfOdd(r.Namespace) + " (path " + quoteIfOdd(r.Path) + ", workspace " + quoteIfOdd(r.Workspace) + project + ")"
}

// quoteIfOdd quotes what could mislead a reader or a terminal.
func quoteIfOdd(s string) string {
	if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, isOdd) {
		return strconv.Quote(s)
	}
	return s
}

// isOdd reports whether a character has a meaning in a message, or is not one that
// everybody can read: strconv.Quote changes it.
func isOdd(c rune) bool {
	switch c {
	case ' ', '(', ')', ',', '"', '\\':
		return true
	default:
		return !strconv.IsPrint(c)
	}
}

// Key returns the resource's key inside its repository: injective, printable,
// and folding nothing. [ParseResourceKey] reverses it.
func (r ResourceIdentifier) Key() string {
	return string(r.Type) + "/" + url.PathEscape(r.Path) + "/" + url.PathEscape(r.Workspace) + "/" + url.PathEscape(r.Name)
}

// maxKey is how long the key can be at most.
func (r ResourceIdentifier) maxKey() int {
	const maxEscaped = len("%00") // of one byte
	return len(r.Type) + len("///") + maxEscaped*(len(r.Path)+len(r.Workspace)+len(r.Name))
}

// ParseResourceKey returns the resource of a repository that has the key.
func ParseResourceKey(repository, key string) (ResourceIdentifier, error) {
	if slashes := strings.Count(key, "/"); slashes != 3 {
		return ResourceIdentifier{}, fmt.Errorf("resource key %q has %d parts instead of 4", key, slashes+1)
	}
	kind, rest, _ := strings.Cut(key, "/")
	r := ResourceIdentifier{Type: ResourceType(kind), Namespace: repository}
	for _, field := range []*string{&r.Path, &r.Workspace, &r.Name} {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		text, err := url.PathUnescape(part)
		if err != nil {
			return ResourceIdentifier{}, fmt.Errorf("resource key %q: %w", key, err)
		}
		if url.PathEscape(text) != part {
			return ResourceIdentifier{}, fmt.Errorf("resource key %q is not in canonical form", key)
		}
		*field = text
	}
	return r, nil
}

// RepositoryTag returns the tag under which a store keeps everything of a
// repository: the first 128 bits of the SHA-256 of its full name, in hex. It
// has a fixed length and no special characters, whatever the name contains.
func RepositoryTag(repository string) string {
	sum := sha256.Sum256([]byte(repository))
	return hex.EncodeToString(sum[:16])
}

// FormatLockID returns the ID of the lock that was granted with token in the
// repository. It is an address, not a secret: it locates the lock without a
// scan, and no later lock ever has it.
func FormatLockID(repository string, token int64) string {
	return FormatLockIDByTag(RepositoryTag(repository), token)
}

// FormatLockIDByTag is [FormatLockID] for a caller that has the repository's tag.
func FormatLockIDByTag(tag string, token int64) string {
	return tag + "-" + strconv.FormatInt(token, 10)
}

// ParseLockID returns the repository's tag and the token of a lock ID, or
// false if no lock can have that ID.
func ParseLockID(id string) (tag string, token int64, ok bool) {
	tag, digits, found := strings.Cut(id, "-")
	token, err := strconv.ParseInt(digits, 10, 64)
	if !found || err != nil || token <= 0 || len(tag) != 32 {
		return "", 0, false
	}
	if strings.Trim(tag, "0123456789abcdef") != "" || strconv.FormatInt(token, 10) != digits {
		return "", 0, false
	}
	return tag, token, true
}
