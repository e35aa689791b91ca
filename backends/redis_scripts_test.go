package backends_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	// aCommand is one that is sent, or put into a table to be sent.
	aCommand = regexp.MustCompile(`(?:(?:call|try)\(|\{)\s*(?:'([A-Z]+)'|[a-z]\w* == [^,]+),\s*([^,)}]+)`)
	aName    = regexp.MustCompile(`^[A-Za-z_]\w*$`)
	aKey     = regexp.MustCompile(`^(unpack\()?KEYS\b`)
	anInput  = regexp.MustCompile(`\bARGV\b|\.\.`)
	// keysOf has keys that an earlier step was given, where there is one server.
	aRename = regexp.MustCompile(`^(nil|stockKeys\(.*\)|keysOf\(.*\)|keys\[.*\])$`)
	// anAssignment has the names, and the values.
	anAssignment = regexp.MustCompile(`(?m)(?:^|[ ;])(?:local )?(\w+(?:, \w+)*) = ([^=\n].*)$`)
	aFunction    = regexp.MustCompile(`function (\w+)\(([^)]*)\)`)
)

// fromKeys reports whether a value is one of the keys, or none, or what a
// variable has, which is then one of the names.
func fromKeys(value string, names map[string]bool) bool {
	value = strings.TrimSuffix(strings.TrimSpace(value), " end")
	if inTable, ok := strings.CutPrefix(value, "{"); ok { // named keys, see repair.lua
		for _, entry := range listed(strings.TrimSuffix(inTable, "}")) {
			if _, key, _ := strings.Cut(entry, " = "); !fromKeys(key, names) {
				return false
			}
		}
		return true
	}
	if aName.MatchString(value) && value != "nil" {
		names[value] = true
	}
	return (aKey.MatchString(value) && !anInput.MatchString(value)) || aRename.MatchString(value) || names[value]
}

// listed splits a list of values at its own commas.
func listed(text string) (values []string) {
	depth, from := 0, 0
	for i, c := range text {
		switch c {
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			if depth--; depth < 0 { // the end of a call
				return append(values, strings.TrimSpace(text[from:i]))
			}
		case ',':
			if depth == 0 {
				values, from = append(values, strings.TrimSpace(text[from:i])), i+1
			}
		}
	}
	return append(values, strings.TrimSpace(text[from:]))
}

// undeclared returns the first place where a script has a command on a key that
// is not one of those that it is given, or where what it has keys in gets
// anything else.
func undeclared(script string) string {
	names := map[string]bool{"keys": strings.Contains(script, "keys[")}
	for _, m := range aCommand.FindAllStringSubmatch(script, -1) {
		switch key := strings.TrimSpace(m[2]); {
		case m[1] == "PUBLISH" || aKey.MatchString(key) && !anInput.MatchString(key):
		case aName.MatchString(key):
			names[key] = true
		default:
			return m[0]
		}
	}
	// What one variable has another may be given, so until no more are known.
	for known := -1; known != len(names); {
		known = len(names)
		if at := misgiven(script, names); at != "" {
			return at
		}
	}
	return ""
}

// misgiven returns where one of the names gets what is no key. It adds the names
// that they get it from.
func misgiven(script string, names map[string]bool) string {
	for _, m := range anAssignment.FindAllStringSubmatch(script, -1) {
		values := listed(m[2])
		for i, name := range strings.Split(m[1], ", ") {
			if names[name] && (i >= len(values) && !aRename.MatchString(values[len(values)-1]) || i < len(values) && !fromKeys(values[i], names)) {
				return m[0]
			}
		}
	}
	// A parameter is what callers pass.
	for _, f := range aFunction.FindAllStringSubmatch(script, -1) {
		for i, parameter := range strings.Split(f[2], ", ") {
			if !names[parameter] {
				continue
			}
			for _, at := range regexp.MustCompile(`\b`+f[1]+`\(`).FindAllStringIndex(script, -1) {
				values := listed(script[at[1]:])
				if i < len(values) && !fromKeys(values[i], names) {
					return script[at[0]:at[1]] + strings.Join(values, ", ") + ")"
				}
			}
		}
	}
	return ""
}

// A script touches no key but those it is given: on a cluster any other is on
// another server sooner or later.
func TestRedisScriptsDeclareTheirKeys(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("scripts")
	require.NoError(t, err)
	read := func(name string) string {
		text, err := os.ReadFile("scripts/" + name)
		require.NoError(t, err)
		return string(text)
	}
	prelude := read("prelude.lua") + read("locks.lua") + read("queue.lua") + read("turns.lua") + read("runs.lua") + read("whole.lua")
	shared := []string{"prelude.lua", "locks.lua", "queue.lua", "turns.lua", "runs.lua", "whole.lua", "waits.lua"}
	whole := func(name string) string {
		text := read(name)
		switch {
		case slices.Contains(shared, name):
			return prelude + read("waits.lua")
		case strings.Contains(text, "S.waits("):
			return prelude + read("waits.lua") + text
		case strings.Contains(text, "finish("): // what uses the prelude
			return prelude + text
		}
		return text
	}
	for _, file := range files {
		text := read(file.Name())
		require.Empty(t, undeclared(whole(file.Name())), file.Name())
		require.Regexp(t, `(?m)^-- KEYS `, text, file.Name())
		if !slices.Contains(shared, file.Name()) {
			require.Regexp(t, `(?m)^-- Answers `, text, file.Name())
		}
	}
	for _, mutant := range []string{
		`redis.call('GET', 'pr/' .. ARGV[7])`, `call('HSET', ARGV[1] .. ':state', 'a', 'b')`, `redis.pcall('DEL', S.name)`,
		"local key = 'pr/' .. ARGV[1]\nredis.call('GET', key)", "local key = KEYS[1] .. 'x'\nredis.call('GET', key)",
		"local a, mirror = KEYS[1], S.name\ncall('SET', mirror, '')", "grant(resource, r, '', '', '', 'pr/' .. resource)",
		"mirrors[1] = { 'DEL', 'pr/' .. ARGV[1] }",
	} {
		require.NotEmpty(t, undeclared(whole("transfer.lua")+mutant), mutant)
	}
}
