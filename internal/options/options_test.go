package options_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/options"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

type rule struct {
	Path string `mapstructure:"path"`
	User string `mapstructure:"user"`
}

type section struct {
	Wait   time.Duration `mapstructure:"wait" file:"queue.wait" doc:"How long."`
	Grace  time.Duration `mapstructure:"grace" file:"queue.grace" doc:"How long more."`
	Size   int           `mapstructure:"queue_size" file:"queue.size" doc:"How many." atlantis:"queue-length"`
	On     bool          `mapstructure:"queue_on" file:"queue.on" doc:"Whether." restart:"true"`
	Policy string        `mapstructure:"policy" file:"queue.policy" doc:"Which." enum:"first,last"`
	Rules  []rule        `mapstructure:"rules" file:"queue.rules" doc:"Who." flag:"rule"`
}

type values struct {
	Section  section
	Addr     []string `mapstructure:"addr" file:"store.addr" doc:"Where."`
	Password string   `mapstructure:"password" file:"store.password" doc:"The password." secret:"true" atlantis:"store-password"`
	Host     string   `mapstructure:"store_host" atlantis:"store-host" doc:"Where, in Atlantis' words."`
	Port     int      `mapstructure:"store_port" atlantis:"store-port" doc:"And at which port."`
	Internal int      `mapstructure:"internal"`
}

func set() *options.Set[values] {
	return options.New("X_", values{Section: section{Wait: time.Minute, Size: 10, Policy: "first"}, Port: 1})
}

// load loads from a file, an environment of NAME=VALUE and a command line.
func load(t *testing.T, s *options.Set[values], file string, variables, args []string) (*options.Loaded[values], []options.Problem) {
	t.Helper()
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.AddFlags(flags, func(*options.Option) bool { return true })
	require.NoError(t, flags.Parse(args))
	return s.Load(options.Sources{
		Flags: flags, File: []byte(file), FileName: "f.yaml",
		Getenv: func(name string) string {
			for _, v := range variables {
				if value, found := strings.CutPrefix(v, name+"="); found {
					return value
				}
			}
			return ""
		},
	})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	s := set()
	var keys []string
	for _, o := range s.All() {
		keys = append(keys, o.Key)
	}
	require.Equal(t, []string{
		"queue.wait", "queue.grace", "queue.size", "queue.on", "queue.policy", "queue.rules",
		"store.addr", "store.password", "store-host", "store-port",
	}, keys)
	size := s.Lookup("queue.size")
	require.Equal(t, []string{"queue-size", "queue-length"}, size.Flags())
	require.Equal(t, []string{"X_QUEUE_SIZE", "ATLANTIS_QUEUE_LENGTH"}, size.Variables())
	require.Equal(t, []string{"ATLANTIS_STORE_HOST"}, s.Lookup("store-host").Variables())
	require.Equal(t, "10", size.Default())
	require.Equal(t, "one of first, last", s.Lookup("policy").Type())
	require.Equal(t, "list of path, user", s.Lookup("--rule").Type())
	for _, name := range []string{"queue-size", "--queue-length", "X_QUEUE_SIZE", "ATLANTIS_QUEUE_LENGTH", "queue_size"} {
		require.Same(t, size, s.Lookup(name), name)
	}
	require.Nil(t, s.Lookup(""))
	require.Nil(t, s.Lookup("internal"))
	require.Equal(t, "queue.size", s.Suggest("queue-sise"))
	require.Equal(t, "queue.wait", s.Suggest("queue.wiat"))
	require.Empty(t, s.Suggest("colour"))
	require.True(t, s.Lookup("queue.on").Restart)
}

// Flags win over variables, these over the file, the file over defaults; each of
// our names and of Atlantis' is as good as the other.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	const file = "queue:\n  size: 2\n"
	variable, theirs := "X_QUEUE_SIZE=3", "ATLANTIS_QUEUE_LENGTH=3"
	tests := map[string]struct {
		file            string
		variables, args []string
		want            int
		from            string
	}{
		"nothing":                       {"", nil, nil, 10, "default"},
		"file":                          {file, nil, nil, 2, "f.yaml:2"},
		"file, Atlantis' key":           {"queue-length: 5", nil, nil, 5, "f.yaml:1"},
		"variable":                      {"", []string{variable}, nil, 3, "X_QUEUE_SIZE"},
		"Atlantis' variable":            {"", []string{theirs}, nil, 3, "ATLANTIS_QUEUE_LENGTH"},
		"flag":                          {"", nil, []string{"--queue-size=4"}, 4, "--queue-size"},
		"Atlantis' flag":                {"", nil, []string{"--queue-length=4"}, 4, "--queue-length"},
		"variable over file":            {file, []string{variable}, nil, 3, "X_QUEUE_SIZE"},
		"flag over file":                {file, nil, []string{"--queue-size=4"}, 4, "--queue-size"},
		"flag over variable":            {"", []string{variable}, []string{"--queue-size=4"}, 4, "--queue-size"},
		"flag over both":                {file, []string{variable}, []string{"--queue-size=4"}, 4, "--queue-size"},
		"the last flag":                 {"", nil, []string{"--queue-size=4", "--queue-size=5"}, 5, "--queue-size"},
		"empty variable":                {file, []string{"X_QUEUE_SIZE="}, nil, 2, "f.yaml:2"},
		"the default's value":           {file, nil, []string{"--queue-size=10"}, 10, "--queue-size"},
		"ours and Atlantis', the same":  {"queue-length: 3", []string{variable}, nil, 3, "X_QUEUE_SIZE"},
		"Atlantis' variable over file":  {"queue-length: 5", []string{theirs}, nil, 3, "ATLANTIS_QUEUE_LENGTH"},
		"a variable that is overridden": {"", []string{"X_QUEUE_SIZE=many"}, []string{"--queue-size=4"}, 4, "--queue-size"},
		"a service of Kubernetes":       {"", []string{"ATLANTIS_QUEUE_LENGTH=tcp://10.0.0.1:1"}, nil, 10, "default"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := set()
			loaded, problems := load(t, s, test.file, test.variables, test.args)
			require.Empty(t, problems)
			require.Equal(t, test.want, loaded.Values.Section.Size)
			require.Equal(t, test.from, loaded.Origin(s.Lookup("queue.size")).String())
		})
	}
}

func TestDifferentValuesForOneThing(t *testing.T) {
	t.Parallel()
	loaded, problems := load(t, set(), "queue:\n  size: 2\nstore-password: p1\n",
		[]string{"ATLANTIS_QUEUE_LENGTH=3", "X_PASSWORD=p2"}, nil)
	require.Equal(t, []string{
		"f.yaml:2: queue.size: 2 here and 3 in ATLANTIS_QUEUE_LENGTH are the same setting, and differ; give one",
		"X_PASSWORD: <redacted> here and <redacted> in f.yaml:3 are the same setting, and differ; give one",
	}, texts(problems))
	require.Equal(t, 10, loaded.Values.Section.Size, "none of them")
}

func texts(problems []options.Problem) []string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.Error())
	}
	return lines
}

func TestValues(t *testing.T) {
	t.Parallel()
	loaded, problems := load(t, set(), `
queue:
  wait: 1h30m
  grace: 0
  on: true
  policy: last
  rules:
    - {path: "envs/{a,b}/**"}
    - user: bot
      path: x
store:
  addr: [a:1, "b:2"]
  password: 010
`, nil, nil)
	require.Empty(t, problems)
	want := values{
		Section: section{Wait: 90 * time.Minute, Size: 10, On: true, Policy: "last", Rules: []rule{{Path: "envs/{a,b}/**"}, {Path: "x", User: "bot"}}},
		Addr:    []string{"a:1", "b:2"}, Password: "010", Port: 1,
	}
	require.Equal(t, want, loaded.Values)

	// The same from variables and from flags.
	loaded, problems = load(t, set(), "", []string{
		"X_WAIT=1h30m", "X_GRACE=0s", "X_QUEUE_ON=true", "X_POLICY=last",
		"X_RULE=path=envs/{a,b}/**\nuser=bot;path=x", "X_ADDR=a:1, b:2", "X_PASSWORD=010",
	}, nil)
	require.Empty(t, problems)
	require.Equal(t, want, loaded.Values)
	loaded, problems = load(t, set(), "", nil, []string{
		"--wait=1h30m", "--queue-on", "--policy=last", "--rule=path=envs/{a,b}/**", "--rule", "user=bot;path=x",
		"--addr=a:1", "--addr=b:2", "--password=010",
	})
	require.Empty(t, problems)
	require.Equal(t, want, loaded.Values)
	loaded, problems = load(t, set(), "store:\n  addr: a:1,b:2\nqueue:\n", nil, nil)
	require.Empty(t, problems)
	require.Equal(t, []string{"a:1", "b:2"}, loaded.Values.Addr)

	// What is written is read again.
	require.Equal(t, "1h30m", options.Text(90*time.Minute))
	require.Equal(t, "2h", options.Text(2*time.Hour))
	require.Equal(t, "1m30s", options.Text(90*time.Second))
	require.Equal(t, "0", options.Text(time.Duration(0)))
	require.Equal(t, "path=envs/{a,b}/**\npath=x;user=bot", options.Text(want.Section.Rules))
}

// Every problem is told, with its place, what is there and what is right.
func TestProblems(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ file, want string }{
		"a typo":                 {"queue:\n  siez: 1", "f.yaml:2: queue.siez: unknown key; did you mean size?"},
		"a section's typo":       {"qeue:\n  size: 1", "f.yaml:1: qeue: unknown key; did you mean queue?"},
		"another section's key":  {"store:\n  policy: last", "f.yaml:2: store.policy: unknown key; did you mean queue.policy?"},
		"without its section":    {"wait: 1s", "f.yaml:1: wait: unknown key; did you mean queue.wait?"},
		"the library's name":     {"queue_size: 1", "f.yaml:1: queue_size: unknown key; did you mean queue.size?"},
		"nothing like it":        {"store:\n  colour: hunter2", "f.yaml:2: store.colour: unknown key; there are addr, password"},
		"twice":                  {"queue:\n  size: 1\n  size: 1", "f.yaml:3: queue.size: is in line 2 already"},
		"no value":               {"queue:\n  size:", "f.yaml:2: queue.size: has no value"},
		"a list":                 {"queue:\n  size: [1]", "f.yaml:2: queue.size: takes one value, not a list"},
		"a mapping":              {"queue:\n  size: {a: 1}", "f.yaml:2: queue.size: takes one value, not keys of its own"},
		"no mapping":             {"queue: 1", "f.yaml:1: queue: takes keys of its own, not a value: grace, on, policy, rules, size, wait"},
		"an alias":               {"queue:\n  wait: &a 1s\n  grace: *a", "f.yaml:3: queue.grace: is an alias; write the value itself"},
		"a merge":                {"queue:\n  <<: {size: 1}", "f.yaml:2: queue.<<: unknown key; there are grace, on, policy, rules, size, wait"},
		"an odd key":             {"queue:\n  ? {a: b}\n  : c", "f.yaml:2: queue.: a key is a text"},
		"no number":              {"queue:\n  size: 1e3", `f.yaml:2: queue.size: "1e3" is no whole number`},
		"a negative number":      {"queue:\n  size: -1", "f.yaml:2: queue.size: -1 is negative"},
		"a zero that is none":    {"queue:\n  size: 0", "f.yaml:2: queue.size: 0 is not possible; give a number above 0, or leave it out for 10"},
		"no unit":                {"queue:\n  wait: 5", `f.yaml:2: queue.wait: "5" has no unit; give a duration such as 5s or 5m`},
		"no duration":            {"queue:\n  wait: 5 minutes", `f.yaml:2: queue.wait: "5 minutes" is no duration; give one such as 90s, 30m or 2h`},
		"a space":                {"queue:\n  wait: ' 5s'", `f.yaml:2: queue.wait: " 5s" is no duration; give one such as 90s, 30m or 2h`},
		"an endless duration":    {"queue:\n  wait: 1e400", `f.yaml:2: queue.wait: "1e400" is no duration; give one such as 90s, 30m or 2h`},
		"none of the words":      {"queue:\n  policy: lsat", `f.yaml:2: queue.policy: "lsat" is none of first, last; did you mean last?`},
		"neither true nor false": {"queue:\n  on: yes", `f.yaml:2: queue.on: "yes" is neither true nor false`},
		"a rule's typo":          {"queue:\n  rules:\n  - {path: a, usr: b}", `f.yaml:3: queue.rules: "usr" is none of the keys path, user; did you mean user?`},
		"a rule as a text":       {"queue:\n  rules:\n  - path=a", "f.yaml:3: queue.rules: takes a list of entries with the keys path, user"},
		"an empty rule's part":   {"queue:\n  rules:\n  - {path: ''}", "f.yaml:3: queue.rules: path is empty or given twice"},
		"a list of sections":     {"- queue", `f.yaml:1: want sections with keys, such as "enhanced-locking:" and below it "  backend: redis"`},
		"two documents":          {"queue:\n---\nqueue:", "f.yaml:2: a second document starts here; the file is one"},
		"a tab":                  {"queue:\n\tsize: 1", "f.yaml:2: no YAML: found character that cannot start any token"},
		"binary":                 {"\x00\x01", "f.yaml:1: no YAML: control characters are not allowed"},
		"too large":              {strings.Repeat("#", options.MaxFile+1), "f.yaml:1: it has more than 1048576 bytes"},
		"a secret":               {"store:\n  password: [hunter2]", "f.yaml:2: store.password: takes one value, not a list"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := load(t, set(), test.file, nil, nil)
			require.Equal(t, []string{test.want}, texts(problems))
		})
	}
	_, problems := load(t, set(), "queue:\n  size: x\n  wait: y\n", []string{"X_POLICY=" + strings.Repeat("z", 1000), "X_RULE=team=a"}, []string{"--store-port=-1", "--queue-on=maybe"})
	require.Equal(t, []string{
		`f.yaml:2: queue.size: "x" is no whole number`,
		`f.yaml:3: queue.wait: "y" is no duration; give one such as 90s, 30m or 2h`,
		`--queue-on: "maybe" is neither true nor false`,
		`X_POLICY: "` + strings.Repeat("z", 60) + `..." is none of first, last`,
		`X_RULE: "team=a" is no part of a rule; give NAME=VALUE, separated by semicolons, with the names path, user`,
		`--store-port: -1 is negative`,
	}, texts(problems))
}

// Aliases are not followed, so they can't make a small file large.
func TestAliasBomb(t *testing.T) {
	t.Parallel()
	file := "a0: &a0 [x, x]\n"
	for i := 1; i < 40; i++ {
		file += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), i-1)
	}
	_, problems := load(t, set(), file+"store:\n  addr: *a39\n", nil, nil)
	require.Equal(t, "f.yaml:42: store.addr: is an alias; write the value itself", problems[len(problems)-1].Error())
}

func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		"queue:\n  wait: 1h30m\n  size: 3\n  rules:\n  - {path: a, user: b}\nstore:\n  addr: [a:1, b:2]\n",
		"queue-length: 3\nqueue:\n  size: 4\n", "queue:\n  rules: [{path: a;b}]\n", "? {a: b}\n: c\n", "a: &a [*a]\n", "\ufeffqueue: {on: true}\n",
		"store:\n  password: &x hunter2\n", "queue:\n  wait: -0\n", "---\n---\n", "queue: !!binary aa\n",
	} {
		f.Add([]byte(seed))
	}
	s := set()
	f.Fuzz(func(t *testing.T, file []byte) {
		loaded, problems := s.Load(options.Sources{File: file, FileName: "f"})
		for _, p := range problems {
			require.Positive(t, p.Origin.Line, p.Error())
			require.NotEmpty(t, p.Err.Error())
		}
		for _, o := range s.All() {
			if !loaded.Given(o) {
				continue
			}
			value := s.Value(o, &loaded.Values)
			require.NotContains(t, o.Show(value), "hunter2")
			if text := options.Text(value); o.Key == "queue.wait" || o.Key == "queue.size" || o.Key == "queue.policy" {
				again, problems := s.Load(options.Sources{Getenv: func(name string) string {
					if name == o.Variable {
						return text
					}
					return ""
				}})
				require.Empty(t, problems)
				require.Equal(t, value, s.Value(o, &again.Values), "it is shown as it can be written")
			}
		}
	})
}
