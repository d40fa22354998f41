#pragma once

#include <string>
#include <vector>

namespace everport::cli {

struct Column {
  std::string title;
  bool right = false;  // numbers
};

// Aligned columns, two spaces between them, no trailing spaces. Widths count code points, not bytes. Pure.
class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // One cell a column; an empty one is shown as "-".
  void Add(std::vector<std::string> cells);
  // The titles and all rows, each line with its newline.
  std::string Text() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Code points in UTF-8 text; malformed bytes count one each.
size_t DisplayWidth(const std::string& text);

}  // namespace everport::cli
