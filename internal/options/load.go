package options

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Kinds of origins, the later ones win.
const (
	FromDefault  = "default"
	FromFile     = "file"
	FromVariable = "environment"
	FromFlag     = "flag"
)

// Origin is where a value comes from.
type Origin struct {
	Kind string
	// Name is the flag, the variable or the file; "" for a default.
	Name string
	// Line is the line of the file, from 1.
	Line int
}

// String is the flag as one types it, the variable, FILE:LINE, or default.
func (o Origin) String() string {
	switch o.Kind {
	case FromFile:
		return fmt.Sprintf("%s:%d", o.Name, o.Line)
	case FromFlag:
		return "--" + o.Name
	case FromVariable:
		return o.Name
	default:
		return FromDefault
	}
}

// Problem is something wrong with one value.
type Problem struct {
	Origin Origin
	// Key is the place in the file, of an option or of what is none; "" for a file
	// that can't be read.
	Key string
	Err error
}

// Error says where the value is, what it is for, and what is wrong.
func (p Problem) Error() string {
	var parts []string
	if p.Origin.Kind != "" && p.Origin.Kind != FromDefault {
		parts = append(parts, p.Origin.String())
	}
	// A flag and a variable say what they are for.
	if p.Key != "" && p.Origin.Kind != FromFlag && p.Origin.Kind != FromVariable {
		parts = append(parts, p.Key)
	}
	return strings.Join(append(parts, p.Err.Error()), ": ")
}

// Unwrap returns what is wrong.
func (p Problem) Unwrap() error { return p.Err }

// Sources are what options are read from; each may be left out.
type Sources struct {
	// Flags are those that were typed, see [Set.AddFlags].
	Flags *pflag.FlagSet
	// Getenv is os.Getenv, or one like it. An empty variable is none.
	Getenv func(string) string
	// File is the content of a YAML file, FileName its name for people.
	File     []byte
	FileName string
}

// Loaded are the values of options and where they come from.
type Loaded[T any] struct {
	Values  T
	origins map[*Option]Origin
}

// Origin says where the value of an option comes from.
func (l *Loaded[T]) Origin(o *Option) Origin {
	if origin, given := l.origins[o]; given {
		return origin
	}
	return Origin{Kind: FromDefault}
}

// Given reports whether an option has a value that is not its default by default.
func (l *Loaded[T]) Given(o *Option) bool {
	_, given := l.origins[o]
	return given
}

// candidate is a value that one of the sources has.
type candidate struct {
	origin Origin
	value  reflect.Value
}

// Load reads the options. Flags win over variables, these over the file, and the
// file over the defaults. Where the program and Atlantis have settings for the same
// thing, each by this order, and they differ, that is a problem: none of them would
// be the obvious one. Options with problems have their defaults.
func (s *Set[T]) Load(sources Sources) (*Loaded[T], []Problem) {
	f := s.readFile(sources.FileName, sources.File)
	loaded := &Loaded[T]{Values: s.defaults, origins: make(map[*Option]Origin)}
	problems := f.problems
	for _, o := range s.list {
		given := sources.find(o, f, o.Flag, o.Variable, o.Key)
		theirs := sources.find(o, f, o.Atlantis, o.AtlantisVariable(), o.Atlantis)
		if given == nil {
			given = theirs
		}
		if given == nil {
			continue
		}
		for _, c := range []*found{given, theirs} {
			if c != nil && c.err != nil {
				problems = append(problems, Problem{c.origin, o.Key, c.err})
				given = nil
				break
			}
		}
		if given == nil {
			continue
		}
		if theirs != nil && !reflect.DeepEqual(given.value.Interface(), theirs.value.Interface()) {
			problems = append(problems, Problem{given.origin, o.Key, fmt.Errorf("%s here and %s in %s are the same setting, and differ; give one", o.Show(given.value.Interface()), o.Show(theirs.value.Interface()), theirs.origin)})
			continue
		}
		reflect.ValueOf(&loaded.Values).Elem().FieldByIndex(o.field).Set(given.value)
		loaded.origins[o] = given.origin
	}
	return loaded, problems
}

// Show is a value of the option for people: never a secret.
func (o *Option) Show(value any) string {
	text := Text(value)
	if o.Secret && text != "" {
		return "<redacted>"
	}
	return text
}

// found is what a source has.
type found struct {
	candidate
	err error
}

// find returns what the first source has under one set of names, nil for nothing.
func (sources Sources) find(o *Option, f *file, flag, variable, key string) *found {
	if typed := sources.typed(flag); typed != nil {
		return o.find(Origin{Kind: FromFlag, Name: flag}, typed.texts)
	}
	if sources.Getenv != nil && variable != "" {
		if text := sources.Getenv(variable); text != "" && !isServiceLink(o, text) {
			return o.find(Origin{Kind: FromVariable, Name: variable}, o.split(text))
		}
	}
	if c, ok := f.values[key]; ok {
		return &found{candidate: c}
	}
	return nil
}

func (o *Option) find(origin Origin, texts []string) *found {
	value, err := o.parse(texts)
	return &found{candidate{origin, value}, err}
}

// isServiceLink reports whether a variable is one of those that Kubernetes sets for
// a service of that name, such as ATLANTIS_REDIS_PORT=tcp://10.0.0.1:6379. Atlantis
// passes over them too.
func isServiceLink(o *Option, text string) bool {
	return o.kind.Kind() == reflect.Int && isServiceAddress(text)
}

func isServiceAddress(text string) bool {
	protocol, _, found := strings.Cut(text, "://")
	return found && slices.Contains([]string{"tcp", "udp", "sctp"}, protocol)
}

// split separates what one text has for a list: addresses by commas, rules by lines.
func (o *Option) split(text string) []string {
	separator := ","
	switch {
	case o.kind.Kind() != reflect.Slice:
		return []string{text}
	case o.kind.Elem().Kind() == reflect.Struct:
		separator = "\n"
	}
	var texts []string
	for part := range strings.SplitSeq(text, separator) {
		if part = strings.TrimSpace(part); part != "" {
			texts = append(texts, part)
		}
	}
	return texts
}

// AddFlags adds the flags of the options that pick chooses. They take any text:
// [Set.Load] tells what is wrong with all of them at once.
func (s *Set[T]) AddFlags(flags *pflag.FlagSet, pick func(*Option) bool) {
	for _, o := range s.list {
		if !pick(o) {
			continue
		}
		for i, name := range o.Flags() {
			usage := o.Doc + " (env " + strings.Join(o.Variables(), ", ") + ")"
			if i > 0 {
				usage = "the same as --" + o.Flag + ", as Atlantis calls it"
			}
			flag := flags.VarPF(&typedFlag{option: o}, name, "", usage)
			if o.kind.Kind() == reflect.Bool {
				flag.NoOptDefVal = "true"
			}
		}
	}
}

// typed returns a flag that was typed, nil if it was not.
func (sources Sources) typed(name string) *typedFlag {
	if sources.Flags == nil || name == "" {
		return nil
	}
	flag := sources.Flags.Lookup(name)
	if flag == nil || !flag.Changed {
		return nil
	}
	typed, _ := flag.Value.(*typedFlag)
	return typed
}

// typedFlag is a flag of an option.
type typedFlag struct {
	option *Option
	texts  []string
}

// String is the value for the help: the default, which is never a secret.
func (f *typedFlag) String() string {
	if f.option == nil {
		return "" // pflag asks a zero value too
	}
	return f.option.Default()
}

// Set takes a text. One more is one more of a list, or else replaces it.
func (f *typedFlag) Set(text string) error {
	if f.option.kind.Kind() != reflect.Slice {
		f.texts = []string{text}
	} else if f.option.kind.Elem().Kind() == reflect.Struct {
		f.texts = append(f.texts, text)
	} else {
		f.texts = append(f.texts, f.option.split(text)...)
	}
	return nil
}

// Type is the word for the value in the help.
func (f *typedFlag) Type() string {
	switch kind := f.option.kind; {
	case kind.Kind() == reflect.Bool:
		return "bool"
	case kind.Kind() == reflect.Int:
		return "int"
	case f.option.Type() == "duration":
		return "duration"
	default:
		return "string"
	}
}
