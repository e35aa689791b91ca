package enhanced

// releasedBefore reports whether a release has found that the lock was released
// before, see [Backend].Release.
func (l *EnhancedLock) releasedBefore() bool {
	return l != nil && l.State == LockStateReleased && l.AcquiredAt.IsZero()
}

// Validate checks that the request names a lock and a right. Its error is an
// INVALID_REQUEST.
func (r ReleaseRequest) Validate() error {
	if r.LockID == "" && r.Resource == (ResourceIdentifier{}) {
		return NewInvalidError("a release needs a lock ID or a resource; both are empty")
	}
	if r.LockID == "" && r.Owner == "" && r.PullNumber == nil && !r.Force {
		return NewInvalidError("a release of %s needs its owner, its pull number or force; all are empty", r.Resource)
	}
	if r.Reservation && (!r.Force || r.LockID != "") {
		return NewInvalidError("a release of a reservation needs its resource and force, and no lock ID")
	}
	if r.Resource != (ResourceIdentifier{}) {
		if err := r.Resource.Normalized().Validate(); err != nil {
			return err
		}
	}
	if r.Owner != "" {
		if _, err := ParseOwner(r.Owner); err != nil {
			return err
		}
	}
	if err := validateText("actor", r.Actor); err != nil {
		return err
	}
	return ValidateReason(r.Reason)
}

// ValidateReason checks that a reason can be kept in the log. Its error is an
// INVALID_REQUEST.
func ValidateReason(reason string) error {
	if err := validateText("reason", reason); err != nil {
		return err
	}
	if len(reason) > MaxMetadataBytes {
		return NewInvalidError("reason has %d bytes, at most %d are allowed", len(reason), MaxMetadataBytes)
	}
	return nil
}
