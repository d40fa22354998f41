#pragma once

namespace everport::fakes {

// Built with ASan or TSan, as are then the programs under test: their shadow memory counts as resident, and code takes
// several times as long. Figures of memory and speed are printed then, and not judged.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace everport::fakes
