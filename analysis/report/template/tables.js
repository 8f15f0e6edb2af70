// Sorting of tables (DataTables, bundled by itables).
import DataTable from "datatables";

const LONG = 12; // rows, from which on a table can be searched

function sortable() {
  for (const table of document.querySelectorAll("table.sortable:not(.dataTable)")) {
    const rows = table.tBodies[0].rows.length;
    if (rows < 2) continue;
    const search = rows > LONG ? { search: { text: "_INPUT_", placeholder: "filter rows" } } : null;
    new DataTable(table, {
      paging: false, info: false, order: [], autoWidth: false, searching: rows > LONG,
      layout: { topStart: search, topEnd: null, bottomStart: null, bottomEnd: null },
    });
  }
}
sortable();
document.addEventListener("renewed", sortable);
