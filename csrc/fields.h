// FLOVER_FIELDS(Name, a, b, ...) inside a struct names its fields once more, for those who go over all of them: the
// Python class of an operation (bindings.cpp) and the program that fills in its references (runner.h).
#pragma once

#define FLOVER_PARENS ()
#define FLOVER_EXPAND(...) FLOVER_EXPAND3(FLOVER_EXPAND3(FLOVER_EXPAND3(__VA_ARGS__)))
#define FLOVER_EXPAND3(...) FLOVER_EXPAND2(FLOVER_EXPAND2(FLOVER_EXPAND2(__VA_ARGS__)))
#define FLOVER_EXPAND2(...) FLOVER_EXPAND1(FLOVER_EXPAND1(FLOVER_EXPAND1(__VA_ARGS__)))
#define FLOVER_EXPAND1(...) __VA_ARGS__
#define FLOVER_EACH(macro, ...) __VA_OPT__(FLOVER_EXPAND(FLOVER_EACH_STEP(macro, __VA_ARGS__)))
#define FLOVER_EACH_STEP(macro, first, ...) macro(first) __VA_OPT__(FLOVER_EACH_AGAIN FLOVER_PARENS(macro, __VA_ARGS__))
#define FLOVER_EACH_AGAIN() FLOVER_EACH_STEP

#define FLOVER_VISIT(field) visit(#field, field);
#define FLOVER_FIELDS(Name, ...)             \
  static constexpr const char* name = #Name; \
  template <class Visit>                     \
  void each_field(Visit&& visit) {           \
    FLOVER_EACH(FLOVER_VISIT, __VA_ARGS__)   \
  }
