package main

import (
	"bytes"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/options"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// updateVariable has tests write the files that are made from the code.
const updateVariable = "ATLANTIS_LOCKS_TEST_UPDATE"

const (
	schemaFile    = "../../docs/config.schema.json"
	referenceFile = "../../docs/configuration.md"
)

// A new field without its tags fails here.
func TestEveryOptionHasAPlaceAndAWord(t *testing.T) {
	t.Parallel()
	set := newOptions()
	byName := make(map[string]*options.Option)
	taken := make(map[string]string)
	sections := regexp.MustCompile(`^([a-z]+(-[a-z]+)*\.)?[a-z]+(-[a-z]+)*$`)
	for _, o := range set.All() {
		require.Nil(t, byName[o.Name], o.Name)
		byName[o.Name] = o
		require.Regexp(t, sections, o.Key)
		require.Regexp(t, `^[A-Z].*\.$`, o.Doc, "%s: a doc tag with a sentence", o.Key)
		require.NotEmpty(t, o.Variables(), o.Key)
		for _, name := range append(append(o.Flags(), o.Variables()...), "file: "+o.Key) {
			require.Empty(t, taken[name], "%s is of %s and %s", name, taken[name], o.Key)
			taken[name] = o.Key
		}
	}
	for _, group := range []reflect.Type{reflect.TypeFor[enhanced.EnhancedConfig](), reflect.TypeFor[redisSettings](), reflect.TypeFor[serverSettings]()} {
		for i := range group.NumField() {
			name := group.Field(i).Tag.Get("mapstructure")
			require.NotNil(t, byName[name], "%s.%s has no option: give it the tags mapstructure, file and doc", group.Name(), group.Field(i).Name)
			delete(byName, name)
		}
	}
	require.Empty(t, byName)
}

// The example of the specification is a configuration, and says what it says.
func TestSpecifiedConfiguration(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("testdata/specification.yaml")
	require.NoError(t, err)
	loaded, problems := loadConfiguration(newOptions(), options.Sources{File: content, FileName: "specification.yaml"})
	require.Empty(t, problems)
	want := enhanced.DefaultConfig()
	want.Enabled, want.EnableEvents, want.Backend = true, true, enhanced.BackendRedis
	want.DefaultTimeout, want.MaxTimeout = 30*time.Minute, 2*time.Hour
	want.MaxQueueSize, want.QueueTimeout = 1000, 10*time.Minute
	want.MaxRetryAttempts, want.RetryBaseDelay, want.RetryMaxDelay = 3, time.Second, 30*time.Second
	want.DeadlockCheckInterval, want.ResolutionPolicy = 30*time.Second, enhanced.PolicyLowestPriority
	want.RedisKeyPrefix, want.RedisLockTTL = "atlantis:lock:", time.Hour
	want.LegacyFallback, want.PreserveLegacyFormat = true, true
	require.Equal(t, want, loaded.locking())
	given := 0
	for _, o := range loaded.set.All() {
		if loaded.Given(o) {
			given++
		}
	}
	require.Equal(t, 19, given, "each of its options counts")
}

// Every value that a file can have reaches the field that it is for.
func TestEveryOptionCanBeSet(t *testing.T) {
	t.Parallel()
	set := newOptions()
	defaults, problems := set.Load(options.Sources{})
	require.Empty(t, problems)
	for _, o := range set.All() {
		node := map[string]string{
			"duration": "7s", "whole number": "7", "text": "text", "list of texts": "[a, b]",
		}[o.Type()]
		switch {
		case o.Allowed != nil:
			node = o.Allowed[len(o.Allowed)-1]
		case o.Type() == "true or false":
			node = map[string]string{"true": "false", "false": "true"}[o.Default()]
		case strings.HasPrefix(o.Type(), "list of repository"):
			node = "[{user: ann}]"
		}
		require.NotEmpty(t, node, "%s is a %s", o.Key, o.Type())
		text := strings.Replace(o.Key, ".", ":\n  ", 1) + ": " + node + "\n"
		loaded, problems := set.Load(options.Sources{File: []byte(text), FileName: "f"})
		require.Empty(t, problems, text)
		require.NotEqual(t, set.Value(o, &defaults.Values), set.Value(o, &loaded.Values), text)
		require.NotEqual(t, options.FromDefault, loaded.Origin(o).Kind)
		requireValid(t, text)
	}
}

// requireValid wants the checked-in schema to accept a file.
func requireValid(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, validate(t, text), text)
}

func validate(t *testing.T, text string) error {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(schemaFile)
	require.NoError(t, err)
	var value any
	require.NoError(t, yaml.Unmarshal([]byte(text), &value))
	return schema.Validate(value)
}

func TestSchema(t *testing.T) {
	t.Parallel()
	schema, err := newOptions().Schema(schemaTitle)
	require.NoError(t, err)
	requireCurrent(t, schemaFile, schema)
	example, err := os.ReadFile("testdata/specification.yaml")
	require.NoError(t, err)
	requireValid(t, string(example))
	requireValid(t, "retry:\nredis-db: 3\nenhanced-locking: {legacy-lock-timeout: 0}\nredis: {addr: a:1}\n")
	for _, wrong := range []string{
		"rety: {}", "retry: {enabld: true}", "retry: 1", "retry: {enabled: 1}", "retry: {max-attempts: 0}", "redis-db: -1",
		"enhanced-locking: {backend: mysql}", "enhanced-locking: {max-timeout: 30}", "enhanced-locking: {max-timeout: 5 minutes}",
		"priority-queue: {queue-for: [{pat: a}]}", "enhanced-locking: {legacy-lock-timeout: 5}",
	} {
		require.Error(t, validate(t, wrong), wrong)
	}
}

// The reference is made from the code, so that no option is missing in it.
func TestReference(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(referenceFile)
	require.NoError(t, err)
	const begin, end = "<!-- begin reference -->\n", "<!-- end reference -->\n"
	head, rest, found := bytes.Cut(page, []byte(begin))
	require.True(t, found)
	_, tail, found := bytes.Cut(rest, []byte(end))
	require.True(t, found)
	requireCurrent(t, referenceFile, []byte(string(head)+begin+"\n"+newOptions().Reference()+end+string(tail)))

	// What the page shows is right.
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(head)
	require.NotNil(t, example)
	_, problems := loadConfiguration(newOptions(), options.Sources{File: example[1], FileName: "example"})
	require.Empty(t, problems)
	requireValid(t, string(example[1]))
}

// requireCurrent wants a file to have a content, or writes it.
func requireCurrent(t *testing.T, path string, want []byte) {
	t.Helper()
	if os.Getenv(updateVariable) != "" {
		require.NoError(t, os.WriteFile(path, want, 0o644))
		return
	}
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, content), "%s is not what the code says: run make generate, and commit it", path)
}

// A file either makes a configuration that the library takes, or is refused with
// lines that say what is wrong.
func FuzzConfigFile(f *testing.F) {
	example, err := os.ReadFile("testdata/specification.yaml")
	require.NoError(f, err)
	f.Add(example)
	for _, seed := range []string{
		"enhanced-locking:\n  default-timeout: 3h\n", "priority-queue:\n  queue-for: [{path: '['}]\n",
		"retry: {lock-exists: true}\nredis: {addr: [a:1, b:1], db: 2}\n", "redis-host: a@b\nlocking-db-type: redis\nredis-port: 7\n",
		"redis:\n  password: hunter2\n  password-file: hunter2\nredis-password: hunter2x\n",
	} {
		f.Add([]byte(seed))
	}
	set := newOptions()
	f.Fuzz(func(t *testing.T, file []byte) {
		loaded, problems := loadConfiguration(set, options.Sources{File: file, FileName: "f"})
		for _, p := range problems {
			require.Positive(t, p.Origin.Line, p.Error())
			require.NotContains(t, p.Err.Error(), "hunter2x")
		}
		if len(problems) > 0 {
			return
		}
		config := loaded.locking()
		require.NoError(t, config.Validate())
		require.True(t, config.Enabled)
		require.Equal(t, config, config.WithDefaults(), "nothing is silently replaced")
		if config.Backend == enhanced.BackendRedis {
			require.Equal(t, loaded.isCluster(), loaded.redis().cluster)
		}
	})
}
