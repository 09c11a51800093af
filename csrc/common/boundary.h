// The shortfall that activation_boundary_loss squares.
#pragma once

#include "scalar.h"

namespace fastadv {

// The distance of a student's pre-activation on the wrong side of the margin, with its sign; NaN stays. A teacher that
// is NaN asks for nothing.
template <class A>
FASTADV_INLINE A shortfall(A student, A teacher, A margin) {
  const A below = student - margin, above = student + margin;
  const A when_active = below >= 0 ? A(0) : below, when_not = above <= 0 ? A(0) : above;
  return teacher > 0 ? when_active : teacher <= 0 ? when_not : A(0);
}

}  // namespace fastadv
