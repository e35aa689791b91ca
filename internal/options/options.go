// Package options makes flags, environment variables, a YAML file, a JSON schema
// and a reference out of one struct. Its fields' tags say all that is to be known
// of an option, so that adding one is adding a field:
//
//	mapstructure  the name, such as queue_timeout; with dashes it is the flag,
//	              in capitals behind the prefix the environment variable
//	file          the place in the file, SECTION.KEY
//	doc           what it is, for people who run the program
//	enum          the values that are allowed, with commas
//	flag          the flag, where the name is not what one would type
//	atlantis      the setting of Atlantis that is the same thing
//	restart       "true" if it counts only when the program starts
//	secret        "true" if its value is never shown
//
// Fields that are structs without a mapstructure tag are looked into. A field
// without a place is no option: a test of the program finds it.
//
// Libraries that merge such sources decode the file first, and then no longer know
// the line, the duplicates and how a value was written, which errors here tell.
package options

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Option is one setting.
type Option struct {
	// Key is its place in the file, SECTION.KEY; for a setting that only Atlantis
	// has, its name there.
	Key string
	// Flag is the flag without dashes, Variable the environment variable; "" for
	// none, for a setting that only Atlantis has.
	Flag, Variable string
	// Atlantis is the setting of Atlantis that is the same thing, "" for none. It is
	// a flag, a variable behind ATLANTIS_, and a key of its own in the file.
	Atlantis string
	// Doc says what it is, in one paragraph.
	Doc string
	// Allowed are its values, nil for any of its type.
	Allowed []string
	// Restart says that it counts only when the program starts.
	Restart bool
	// Secret says that its value is never shown.
	Secret bool
	// Name is the mapstructure name of the field, which errors of the library use.
	Name string

	field   []int
	kind    reflect.Type
	initial any
}

// atlantisPrefix starts Atlantis' environment variables.
const atlantisPrefix = "ATLANTIS_"

// Set are the options of a struct. It does not change, and is safe for concurrent use.
type Set[T any] struct {
	prefix   string
	list     []*Option
	defaults T
}

// New returns the options of a struct with its defaults. The environment variables
// start with prefix.
func New[T any](prefix string, defaults T) *Set[T] {
	s := &Set[T]{prefix: prefix, defaults: defaults}
	s.walk(prefix, reflect.ValueOf(defaults), nil)
	// Several structs can have options of one section.
	first := make(map[string]int)
	for i, o := range s.list {
		if _, found := first[o.section()]; !found {
			first[o.section()] = i
		}
	}
	slices.SortStableFunc(s.list, func(a, b *Option) int { return cmp.Compare(first[a.section()], first[b.section()]) })
	return s
}

// section is the part of the key that names a section of the file, "" for an option
// beside the sections.
func (o *Option) section() string {
	section, _, nested := strings.Cut(o.Key, ".")
	if !nested {
		return ""
	}
	return section
}

func (s *Set[T]) walk(prefix string, value reflect.Value, at []int) {
	for i := range value.NumField() {
		field := value.Type().Field(i)
		path := append(at[:len(at):len(at)], i)
		tag := field.Tag.Get
		name := tag("mapstructure")
		if name == "" && field.Type.Kind() == reflect.Struct {
			s.walk(prefix, value.Field(i), path)
			continue
		}
		o := &Option{
			Key: tag("file"), Atlantis: tag("atlantis"), Doc: tag("doc"), Name: name,
			Restart: tag("restart") == "true", Secret: tag("secret") == "true",
			field: path, kind: field.Type, initial: value.Field(i).Interface(),
		}
		if enum := tag("enum"); enum != "" {
			o.Allowed = strings.Split(enum, ",")
		}
		if o.Key == "" {
			o.Key = o.Atlantis
		} else {
			o.Flag = dashes(name)
			if flag := tag("flag"); flag != "" {
				o.Flag = flag
			}
			o.Variable = variable(prefix, o.Flag)
		}
		if o.Key != "" {
			s.list = append(s.list, o)
		}
	}
}

// All returns the options by sections of the file, both in the order in which the
// struct has them.
func (s *Set[T]) All() []*Option { return s.list }

// Defaults returns the struct with its defaults.
func (s *Set[T]) Defaults() T { return s.defaults }

// Lookup returns the option that a name is of: a place in the file, a flag, an
// environment variable, a setting of Atlantis, or a field of the library; nil if
// there is none.
func (s *Set[T]) Lookup(name string) *Option {
	name = strings.TrimPrefix(name, "--")
	for _, names := range []func(*Option) string{
		func(o *Option) string { return o.Key },
		func(o *Option) string { return o.Flag },
		func(o *Option) string { return o.Variable },
		func(o *Option) string { return o.Atlantis },
		(*Option).AtlantisVariable,
		func(o *Option) string { return o.Name },
	} {
		for _, o := range s.list {
			if name != "" && names(o) == name {
				return o
			}
		}
	}
	return nil
}

// Suggest returns the place of the option whose place or flag is most like name, ""
// if none is.
func (s *Set[T]) Suggest(name string) string {
	places := make(map[string][]string)
	for _, o := range s.list {
		_, key, _ := strings.Cut(o.Key, ".")
		for _, one := range distinct("", key, o.Flag, o.Atlantis, o.Key) {
			places[one] = append(places[one], o.Key)
		}
	}
	// Several sections have keys such as "enabled".
	maps.DeleteFunc(places, func(_ string, of []string) bool { return len(of) > 1 })
	near, found := places[nearest(name, keys(places))]
	if !found {
		return ""
	}
	return near[0]
}

// AtlantisVariable is the environment variable of Atlantis' setting, "" for none.
func (o *Option) AtlantisVariable() string {
	if o.Atlantis == "" {
		return ""
	}
	return variable(atlantisPrefix, o.Atlantis)
}

// Flags are its flags, one or two.
func (o *Option) Flags() []string { return distinct("", o.Flag, o.Atlantis) }

// Variables are its environment variables, one or two.
func (o *Option) Variables() []string { return distinct("", o.Variable, o.AtlantisVariable()) }

// Type says in a word or two what its values are.
func (o *Option) Type() string {
	switch {
	case o.Allowed != nil:
		return "one of " + strings.Join(o.Allowed, ", ")
	case o.kind == reflect.TypeFor[time.Duration]():
		return "duration"
	case o.kind.Kind() == reflect.Bool:
		return "true or false"
	case o.kind.Kind() == reflect.Int:
		return "whole number"
	case o.kind == reflect.TypeFor[[]string]():
		return "list of texts"
	case o.kind.Kind() == reflect.Slice:
		return "list of " + strings.Join(fieldNames(o.kind.Elem()), ", ")
	default:
		return "text"
	}
}

// Default is the default as one would write it, "" for an empty one.
func (o *Option) Default() string { return Text(o.initial) }

// initialIsZero reports whether zero is its default. Where it is not, a zero would
// mean the default, so nobody may write one.
func (o *Option) initialIsZero() bool { return reflect.ValueOf(o.initial).IsZero() }

// Value returns the option's value in a struct of the set.
func (s *Set[T]) Value(o *Option, from *T) any {
	return reflect.ValueOf(from).Elem().FieldByIndex(o.field).Interface()
}

// Copy copies the option's value from one struct to another.
func (s *Set[T]) Copy(o *Option, to, from *T) {
	reflect.ValueOf(to).Elem().FieldByIndex(o.field).Set(reflect.ValueOf(from).Elem().FieldByIndex(o.field))
}

func dashes(name string) string { return strings.ReplaceAll(name, "_", "-") }

func variable(prefix, name string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// distinct returns the texts without repetitions and without one of them.
func distinct(without string, texts ...string) []string {
	var result []string
	seen := map[string]bool{without: true}
	for _, text := range texts {
		if !seen[text] {
			result = append(result, text)
		}
		seen[text] = true
	}
	return result
}
