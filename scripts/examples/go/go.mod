module example.org/nospace

go 1.19
