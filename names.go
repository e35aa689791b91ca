package enhanced

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxNameBytes bounds each name that comes in through the enhanced API.
const maxNameBytes = 1024

// MaxMetadataBytes bounds the metadata of one lock, keys and values together.
const MaxMetadataBytes = 4096

// Validate applies the rules that hold for every resource, however it comes
// in: valid UTF-8, no control characters, a known type, and a stored form
// within the store's limits. Its error is an INVALID_REQUEST naming the field.
func (r ResourceIdentifier) Validate() error {
	switch r.Type {
	case ResourceTypeProject, ResourceTypeWorkspace, ResourceTypeGlobal, ResourceTypeCustom:
	default:
		return NewInvalidError("resource type %q is none of %q, %q, %q, %q", clip(string(r.Type)),
			ResourceTypeProject, ResourceTypeWorkspace, ResourceTypeGlobal, ResourceTypeCustom)
	}
	for _, field := range r.fields() {
		if err := validateText(field.name, field.value); err != nil {
			return err
		}
	}
	if len(r.Namespace)+r.maxKey() <= maxResourceKey {
		return nil // which most have room for, however they are written
	}
	if size := len(r.Namespace) + len(r.Key()); size > maxResourceKey {
		return NewInvalidError("resource takes %d bytes in the store, at most %d are allowed", size, maxResourceKey)
	}
	return nil
}

// validateStrict applies what the enhanced API asks beyond Validate. Atlantis'
// own calls come in through LockingAdapter, which accepts what stock accepts.
func (r ResourceIdentifier) validateStrict() error {
	if err := r.Validate(); err != nil {
		return err
	}
	for _, field := range r.fields() {
		if err := validateName(field.name, field.value); err != nil {
			return err
		}
		// Atlantis project names are optional; without the other parts there
		// would be nothing to lock.
		if optional := field.name == "project name" && field.value == ""; !optional && strings.TrimSpace(field.value) == "" {
			return NewInvalidError("%s %q is empty", field.name, field.value)
		}
	}
	if strings.HasPrefix(r.Path, "/") || r.Path == ".." || strings.HasPrefix(r.Path, "../") {
		return NewInvalidError("path %q leads out of the repository; it is relative to the repository's root", r.Path)
	}
	return nil
}

type namedField struct{ name, value string }

func (r ResourceIdentifier) fields() []namedField {
	return []namedField{
		{"repository", r.Namespace},
		{"path", r.Path},
		{"workspace", r.Workspace},
		{"project name", r.Name},
	}
}

// validateText refuses what no store, log or terminal should ever see.
// Invalid UTF-8 is refused and never replaced: replacing could merge two names.
func validateText(field, value string) error {
	if isPlain(value) {
		return nil
	}
	if !utf8.ValidString(value) {
		return NewInvalidError("%s %q is not valid UTF-8", field, clip(value))
	}
	if i := strings.IndexFunc(value, unicode.IsControl); i >= 0 {
		return NewInvalidError("%s %q contains a control character at byte %d", field, clip(value), i)
	}
	return nil
}

// isPlain reports whether a text is of printable ASCII, as most are.
func isPlain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// validateName adds what is asked of a name that a person chooses now.
func validateName(field, value string) error {
	if err := validateText(field, value); err != nil {
		return err
	}
	if len(value) > maxNameBytes {
		return NewInvalidError("%s %q has %d bytes, at most %d are allowed", field, clip(value), len(value), maxNameBytes)
	}
	// Format characters (zero width, direction overrides) make two names look
	// like one: https://www.unicode.org/reports/tr36/. The joiner of emoji is not
	// among those.
	if i := strings.IndexFunc(value, func(c rune) bool { return c != '\u200d' && unicode.Is(unicode.Cf, c) }); i >= 0 {
		return NewInvalidError("%s %q contains an invisible format character at byte %d", field, clip(value), i)
	}
	return nil
}

// ValidateMetadata applies the rules for what a request stores with its lock. Its
// error is an INVALID_REQUEST.
func ValidateMetadata(metadata map[string]string) error {
	size := 0
	for key, value := range metadata {
		size += len(key) + len(value)
		if key == "" {
			return NewInvalidError("metadata has an empty key")
		}
		if err := validateText("metadata key", key); err != nil {
			return err
		}
		if err := validateText("metadata "+clip(key), value); err != nil {
			return err
		}
	}
	if size > MaxMetadataBytes {
		return NewInvalidError("metadata has %d bytes, at most %d are allowed", size, MaxMetadataBytes)
	}
	return nil
}

// clip keeps error messages readable when a value is huge.
func clip(value string) string {
	const limit = 80
	if len(value) <= limit {
		return value
	}
	return value[:limit] + "..."
}
