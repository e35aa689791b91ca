package options

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

// typo is the distance of two names of which one may be the other mistyped: two letters
// that are swapped are two. Atlantis v0.47 has no variables that are so near to others.
const typo = 2

// serviceVariable fits the variables that Kubernetes sets for a service, but for
// NAME_PORT, which is told by its value. See
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
var serviceVariable = regexp.MustCompile(`_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

// CheckNames looks at the names of environment variables, each as NAME=VALUE, and
// never repeats a value. Mistyped are those with the set's prefix that are no variable
// of the program, but like one: an option is not what somebody wants it to be.
// Doubtful are the others with the prefix, and those of Atlantis that are one typo
// away from a variable of the program. The program's variables are those of options,
// and the others. What is empty, or set by Kubernetes for a service, is passed over.
func (s *Set[T]) CheckNames(environ []string, others ...string) (mistyped, doubtful []Problem) {
	known := slices.Clone(others)
	for _, o := range s.list {
		known = append(known, o.Variables()...)
	}
	spellings := s.spellings(others)
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if value == "" || slices.Contains(known, name) || isServiceVariable(name, value) {
			continue
		}
		problem := func(text, near string) Problem {
			return Problem{Origin: Origin{Kind: FromVariable, Name: name}, Err: errors.New(text + didYouMean(near))}
		}
		rest, ours := strings.CutPrefix(name, s.prefix)
		near := spellings[mistypedAs(dashes(strings.ToLower(rest)), keys(spellings))]
		switch {
		case ours && near != "":
			mistyped = append(mistyped, problem("there is no such variable", near))
		case ours:
			doubtful = append(doubtful, problem("there is no such variable", ""))
		case strings.HasPrefix(name, atlantisPrefix):
			if near := oneTypoAway(name, known); near != "" {
				doubtful = append(doubtful, problem("has no effect", near))
			}
		}
	}
	return mistyped, doubtful
}

// spellings are what people may write behind the prefix, in small letters and with
// dashes, and the variable that each means: the names of flags, else places in the
// file, whole or without their section, if no other place has the same.
func (s *Set[T]) spellings(others []string) map[string]string {
	names, places := make(map[string]string), make(map[string]string)
	for _, name := range others {
		names[dashes(strings.ToLower(strings.TrimPrefix(name, s.prefix)))] = name
	}
	times := make(map[string]int)
	for _, o := range s.list {
		meant := o.Variables()[0]
		for _, flag := range o.Flags() {
			names[flag] = meant
		}
		_, key, _ := strings.Cut(o.Key, ".")
		for _, place := range distinct("", key, strings.ReplaceAll(o.Key, ".", "-")) {
			places[place] = meant
			times[place]++
		}
	}
	maps.DeleteFunc(places, func(place, _ string) bool { return times[place] > 1 })
	maps.Copy(places, names)
	return places
}

// mistypedAs returns the name that text may be mistyped for, "" for none. It differs in
// a third of its letters at most: to refuse a variable that is somebody else's would be
// worse than to have no suggestion.
func mistypedAs(text string, names []string) string {
	near := nearest(text, names)
	allowed := len(near) / 3
	if len(near) <= 3 {
		allowed = 0
	}
	if levenshtein.Distance(text, near, nil) > allowed {
		return ""
	}
	return near
}

// oneTypoAway returns the name that text differs from by one letter, or by two that
// are swapped; "" for none.
func oneTypoAway(text string, names []string) string {
	for _, name := range names {
		if levenshtein.Distance(text, name, nil) <= typo {
			return name
		}
	}
	return ""
}

func isServiceVariable(name, value string) bool {
	return serviceVariable.MatchString(name) || strings.HasSuffix(name, "_PORT") && isServiceAddress(value)
}
