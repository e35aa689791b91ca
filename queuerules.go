package enhanced

import (
	"fmt"

	"github.com/bmatcuk/doublestar/v4"
)

// QueueScope chooses requests by globs in the syntax that Atlantis uses, see
// https://pkg.go.dev/github.com/bmatcuk/doublestar/v4: * stays within one part of
// a path, ** does not. An empty field fits everything.
type QueueScope struct {
	// Repository is matched against the full name, such as acme/infra.
	Repository string `mapstructure:"repository"`
	// Path is matched against the project's directory, . for the root.
	Path string `mapstructure:"path"`
	// Workspace is matched against the Terraform workspace.
	Workspace string `mapstructure:"workspace"`
	// User is matched against who asks; for a pull request who runs the plan.
	User string `mapstructure:"user"`
}

// PriorityRule gives requests of a scope their priority.
type PriorityRule struct {
	Repository string `mapstructure:"repository"`
	Path       string `mapstructure:"path"`
	Workspace  string `mapstructure:"workspace"`
	User       string `mapstructure:"user"`
	// Priority is low, normal, high or critical.
	Priority string `mapstructure:"priority"`
}

// Scope returns what the rule is for.
func (r PriorityRule) Scope() QueueScope {
	return QueueScope{Repository: r.Repository, Path: r.Path, Workspace: r.Workspace, User: r.User}
}

// Fits reports whether a request of a user for a resource is in the scope.
func (s QueueScope) Fits(resource ResourceIdentifier, user string) bool {
	return fits(s.Repository, resource.Namespace) && fits(s.Path, resource.Path) &&
		fits(s.Workspace, resource.Workspace) && fits(s.User, user)
}

func fits(pattern, text string) bool {
	return pattern == "" || doublestar.MatchUnvalidated(pattern, text)
}

// QueuesFor reports whether requests of a user for a resource use the queue:
// EnablePriorityQueue is set, and QueueFor is empty or one of it fits.
func (c *EnhancedConfig) QueuesFor(resource ResourceIdentifier, user string) bool {
	return c.queues(func(s QueueScope) bool { return s.Fits(resource, user) })
}

// queuesRepository reports whether anybody's requests for anything in a
// repository use the queue.
func (c *EnhancedConfig) queuesRepository(name string) bool {
	return c.queues(func(s QueueScope) bool { return fits(s.Repository, name) })
}

func (c *EnhancedConfig) queues(chosen func(QueueScope) bool) bool {
	if !c.EnablePriorityQueue {
		return false
	}
	for _, scope := range c.QueueFor {
		if chosen(scope) {
			return true
		}
	}
	return len(c.QueueFor) == 0
}

// PriorityFor returns the priority of a request that names none, and the number,
// from 1, of the first of PriorityRules that fits; 0 if none does, and the
// priority is [PriorityNormal].
func (c *EnhancedConfig) PriorityFor(resource ResourceIdentifier, user string) (priority Priority, rule int) {
	for i, r := range c.PriorityRules {
		if !r.Scope().Fits(resource, user) {
			continue
		}
		if p, err := ParsePriority(r.Priority); err == nil {
			return p, i + 1
		}
	}
	return PriorityNormal, 0
}

// ruleProblems names what is wrong with the rules.
func (c *EnhancedConfig) ruleProblems() (problems []error) {
	check := func(where string, s QueueScope) {
		for _, f := range []namedField{{"repository", s.Repository}, {"path", s.Path}, {"workspace", s.Workspace}, {"user", s.User}} {
			if !doublestar.ValidatePattern(f.value) {
				problems = append(problems, fmt.Errorf("%s: %s %q is no glob", where, f.name, clip(f.value)))
			}
		}
	}
	for i, s := range c.QueueFor {
		check(fmt.Sprintf("queue_for %d", i+1), s)
	}
	for i, r := range c.PriorityRules {
		where := fmt.Sprintf("priority_rules %d", i+1)
		check(where, r.Scope())
		if _, err := ParsePriority(r.Priority); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", where, err))
		}
	}
	if len(c.QueueFor) > 0 && !c.EnablePriorityQueue {
		problems = append(problems, fmt.Errorf("queue_for: %d scopes need enable_priority_queue: true, which is false", len(c.QueueFor)))
	}
	return problems
}

// PriorityExplanation says how the queue treats a request that names no priority.
type PriorityExplanation struct {
	Priority Priority
	// Rule is the number, from 1, of the rule that gave the priority, 0 for none.
	Rule int
	// Queued says whether the request uses the queue.
	Queued bool
}

// ExplainPriority says how the queue treats a request of a user for a resource
// that names no priority.
func (m *EnhancedLockManager) ExplainPriority(resource ResourceIdentifier, user string) (PriorityExplanation, error) {
	state := m.state.Load()
	if state.err != nil {
		return PriorityExplanation{}, state.err
	}
	resource = resource.Normalized()
	if err := resource.Validate(); err != nil {
		return PriorityExplanation{}, err
	}
	priority, rule := state.config.PriorityFor(resource, user)
	return PriorityExplanation{Priority: priority, Rule: rule, Queued: state.config.QueuesFor(resource, user)}, nil
}
