
-- Added by the benchmark, for the transaction that it calls row by row.
create function after_deposit(before numeric, amount numeric) returns numeric
language plpgsql stable as $$
begin
  return before + amount;
end
$$;
