package api

// Paths of what checks a store.
const (
	VerifyPath = Base + "/verify"
	RepairPath = Base + "/repair"
)

// Violation is something in the store that breaks one of its rules.
type Violation struct {
	Rule       string `json:"rule" doc:"The rule that is broken, for programs." example:"owner-missing"`
	Record     string `json:"record" doc:"Where it is in the store." example:"enhanced/6b3a55e0261b0304143f805a24924d0c/lproject/envs%2Fprod/default/"`
	Repository string `json:"repository" doc:"The repository, empty where it is unknown." example:"acme/infra"`
	Detail     string `json:"detail" doc:"What is wrong there." example:"no entry of user:alice leads to the lock"`
	Repair     string `json:"repair" doc:"What a repair would do, or has done; empty where a person has to decide." example:"write the owner's entry"`
}

// Verification is what a check of the store has found.
type Verification struct {
	Violations []Violation `json:"violations" nullable:"false" doc:"What breaks a rule, by repository; none in a healthy store."`
}

// RepairRequest asks for a repair of the store.
type RepairRequest struct {
	Actor  string `json:"actor" minLength:"1" doc:"The user who has the store repaired." example:"bob"`
	Reason string `json:"reason" minLength:"1" doc:"Why, for the audit log." example:"the disk was full"`
}

// Repair is what a repair did.
type Repair struct {
	Repaired  []Violation `json:"repaired" nullable:"false" doc:"What was repaired; each has a record in its repository's log."`
	Remaining []Violation `json:"remaining" nullable:"false" doc:"What is left."`
}
